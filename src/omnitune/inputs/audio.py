"""Audio in every form that inputs give it, with the channels and at the rate that the model asks for.

Nearly every model hears one channel: the mean of those that a recording has. One whose feature extractor takes two
(EnCodec's of 48 kHz) gets both, one channel twice, or of more their mean twice; see `inputs.processor.channels`.

Resampling is a windowed sinc on PyTorch: the same numbers whatever decoded the recording, and no package is needed.
"""

import logging
import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from omnitune import runtime
from omnitune.errors import MediaError
from omnitune.inputs.container import check_seconds, check_whole, opened, seconds_of
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import Sampling
from omnitune.inputs.source import described

logger = logging.getLogger(__name__)

EXTENSIONS = (".mp3", ".wav", ".ogg", ".flac", ".aac", ".m4a", ".opus")
SIGNATURE = rb"RIFF....WAVE|OggS|fLaC|ID3|\xff[\xe2-\xfb]|....ftypM4A|FORM....AIF"
"""How the bytes of a recording begin."""

MOST_CHANNELS = 32
"""An array `(a, b)` with one side this short holds channels along it."""

ZERO_CROSSINGS = 32
"""Of the resampling filter on each side; the pass band ends at `ROLLOFF` of the lower Nyquist frequency."""

ROLLOFF = 0.945
KAISER_BETA = 14.77


def load_audio(item: Any, policy: MediaPolicy, sampling: Sampling) -> np.ndarray:
    """A waveform with the model's channels, at its rate.

    Args:
        item: Path, bytes, `{"bytes", "path"}`, `{"audio": ...}`, http(s) or data URL, `{"array", "sampling_rate"}`, a
            decoder with `get_all_samples()` as torchcodec's, or an array or tensor `(samples,)`, `(channels, samples)`
            or `(samples, channels)`, which is taken to have the model's rate already.
        policy: Limits.
        sampling: The model's rate, and how many channels it takes.

    Returns:
        `(samples,)`, the mean of the channels, or `(channels, samples)` for a model that takes several; float32, in
        -1..1.

    Raises:
        MediaError: It cannot be read, is truncated or silent of any sample; the message names it.
        MediaRefusedError: It breaks the policy.
    """
    if isinstance(item, dict) and "audio" in item:
        return load_audio(item["audio"], policy, sampling)
    samples, rate = _in_memory(item, sampling) or _decoded(item, policy, sampling.channels)
    if not rate > 0:
        raise MediaError(f"{described(item, 'audio')}: expected a positive sampling rate, got {rate}")
    if not samples.size:
        raise MediaError(f"{described(item, 'audio')}: it has no samples")
    check_seconds(samples.shape[-1] / rate, described(item, "audio"), policy)
    if sampling.rate is None or sampling.rate == rate:
        return samples
    _say(rate, sampling.rate)
    return resample(samples, rate, sampling.rate)


def audio_size(item: Any, policy: MediaPolicy) -> tuple[float]:
    """Seconds, from the header alone; of an array without a rate, as if it had 16 kHz.

    Raises:
        MediaError: The header cannot be read.
    """
    if isinstance(item, dict) and "audio" in item:
        return audio_size(item["audio"], policy)
    if hasattr(item, "get_all_samples"):
        return (float(getattr(item.metadata, "duration_seconds", None) or 0.0),)
    if isinstance(item, dict) and "array" in item:
        return (max(np.shape(item["array"]), default=0) / item["sampling_rate"],)
    if isinstance(item, np.ndarray | torch.Tensor):
        return (max(item.shape, default=0) / 16_000,)
    with opened(item, policy, "audio") as (container, stream):
        return (seconds_of(container, stream) or 0.0,)


def resample(samples: np.ndarray, source: int, target: int) -> np.ndarray:
    """A waveform at another rate.

    Args:
        samples: `(samples,)` or `(channels, samples)`.
        source: Its rate in hertz.
        target: The wanted one.

    Returns:
        `(ceil(samples * target / source),)`, float32; with its channels, if there were any.

    Source:
        Smith, "Digital Audio Resampling": band-limited interpolation, here with a Kaiser window.
    """
    divisor = math.gcd(source, target)
    step, phases = source // divisor, target // divisor
    kernel, width = _kernel(step, phases)
    length = -(-samples.shape[-1] * phases // step)
    rows = torch.from_numpy(np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32))
    made = F.conv1d(F.pad(rows, (width, width + step))[:, None], kernel, stride=step)  # (channels, phases, steps)
    resampled = made.transpose(1, 2).flatten(1)[:, :length].numpy()
    return resampled if samples.ndim == 2 else resampled[0]


@lru_cache(maxsize=16)
def _kernel(step: int, phases: int) -> tuple[Tensor, int]:
    """Filter `(phases, 1, taps)` of every output phase, and how many samples it reaches back."""
    cutoff = min(1.0, phases / step) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS / cutoff)
    taps = torch.arange(-width, width + step, dtype=torch.float64)[None]
    distance = (taps - torch.arange(phases, dtype=torch.float64)[:, None] * step / phases) * cutoff
    inside = (1 - (distance / ZERO_CROSSINGS) ** 2).clamp(min=0).sqrt()
    window = torch.special.i0(KAISER_BETA * inside) / torch.special.i0(torch.tensor(KAISER_BETA, dtype=torch.float64))
    window = torch.where(distance.abs() < ZERO_CROSSINGS, window, 0.0)
    return (torch.sinc(distance) * window * cutoff).float()[:, None], width


def _in_memory(item: Any, sampling: Sampling) -> tuple[np.ndarray, int] | None:
    """Samples and their rate where they are decoded already."""
    if hasattr(item, "get_all_samples"):
        decoded = item.get_all_samples()
        return _mixed(decoded.data, sampling.channels), int(decoded.sample_rate)
    if isinstance(item, dict) and "array" in item:
        if "sampling_rate" not in item:
            raise MediaError(f"{described(item, 'audio')}: expected 'sampling_rate' beside 'array', got {sorted(item)}")
        return _mixed(item["array"], sampling.channels), int(item["sampling_rate"])
    if isinstance(item, np.ndarray | torch.Tensor):
        return _mixed(item, sampling.channels), sampling.rate or 16_000
    return None


def _mixed(values: Any, channels: int, *, axis: int | None = None) -> np.ndarray:
    """As many channels as asked for, float32: `(samples,)` for one, else `(channels, samples)`.

    Integers are scaled to -1..1; other channels than those asked for become their mean. They lie along `axis`, or where
    that is None along the short side.
    """
    array = _floats(values)
    if array.ndim == 2:
        if axis is None:
            axis = 0 if array.shape[0] <= min(array.shape[1], MOST_CHANNELS) else 1
        if not array.shape[axis] or array.shape[axis] > MOST_CHANNELS:
            raise MediaError(f"{described(array, 'audio')}: expected 1 to {MOST_CHANNELS} channels")
        array = array.swapaxes(0, axis) if channels > 1 and array.shape[axis] == channels else array.mean(axis=axis)
    elif array.ndim != 1:
        raise MediaError(
            f"{described(array, 'audio')}: expected (samples,), (channels, samples) or (samples, channels)"
        )
    if not np.isfinite(array).all():
        raise MediaError(f"{described(array, 'audio')}: it has samples that are no finite numbers")
    if channels > 1 and array.ndim == 1:
        array = np.tile(array, (channels, 1))
    return np.ascontiguousarray(array, dtype=np.float32)


def _floats(values: Any) -> np.ndarray:
    """Samples as floats; integers are scaled to -1..1."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float().numpy() if values.is_floating_point() else values.cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        return array.astype(np.float32) / -float(np.iinfo(array.dtype).min or -255)
    if array.dtype.kind != "f":
        raise MediaError(f"{described(array, 'audio')}: expected samples as floats or integers, got {array.dtype}")
    return array


def _decoded(item: Any, policy: MediaPolicy, channels: int) -> tuple[np.ndarray, int]:
    """Samples of the first sound track, and their rate."""
    name = described(item, "audio")
    with opened(item, policy, "audio") as (container, stream):
        rate = stream.codec_context.sample_rate
        if not rate or not stream.codec_context.layout.nb_channels:
            raise MediaError(f"{name}: its sound track has no channels")
        to_float = runtime.require("av", extra="audio").AudioResampler(format="fltp", rate=rate)
        parts: list[np.ndarray] = []
        length = 0
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise MediaError(f"{name}: broken audio after {length / rate:.1f} s")
            parts += [_mixed(piece.to_ndarray(), channels, axis=0) for piece in to_float.resample(frame)]
            length += frame.samples
            check_seconds(length / rate, name, policy)
        check_whole(length / rate, seconds_of(container, stream), name)
    return np.concatenate(parts, axis=-1) if parts else np.zeros(0, np.float32), rate


@lru_cache(maxsize=256)
def _say(source: int, target: int) -> None:
    """Once for each pair of rates."""
    logger.info("audio: resampled from %d Hz to the model's %d Hz.", source, target)
