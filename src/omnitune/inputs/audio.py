"""Audio in every form that inputs give it, as one channel at the rate that the model asks for.

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
    """A waveform: the mean of the channels, at the model's rate.

    Args:
        item: Path, bytes, `{"bytes", "path"}`, `{"audio": ...}`, http(s) or data URL, `{"array", "sampling_rate"}`, a
            decoder with `get_all_samples()` as torchcodec's, or an array or tensor `(samples,)`, `(channels, samples)`
            or `(samples, channels)`, which is taken to have the model's rate already.
        policy: Limits.
        sampling: The model's rate.

    Returns:
        `(samples,)`, float32, in -1..1.

    Raises:
        MediaError: It cannot be read, is truncated or silent of any sample; the message names it.
        MediaRefusedError: It breaks the policy.
    """
    if isinstance(item, dict) and "audio" in item:
        return load_audio(item["audio"], policy, sampling)
    samples, rate = _in_memory(item, sampling) or _decoded(item, policy)
    if not rate > 0:
        raise MediaError(f"{described(item, 'audio')}: expected a positive sampling rate, got {rate}")
    if not samples.size:
        raise MediaError(f"{described(item, 'audio')}: it has no samples")
    check_seconds(len(samples) / rate, described(item, "audio"), policy)
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
        samples: `(samples,)`.
        source: Its rate in hertz.
        target: The wanted one.

    Returns:
        `(ceil(samples * target / source),)`, float32.

    Source:
        Smith, "Digital Audio Resampling": band-limited interpolation, here with a Kaiser window.
    """
    divisor = math.gcd(source, target)
    step, phases = source // divisor, target // divisor
    kernel, width = _kernel(step, phases)
    length = -(-len(samples) * phases // step)
    padded = F.pad(torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))[None], (width, width + step))
    made = F.conv1d(padded[None], kernel, stride=step)[0]  # (phases, steps)
    return made.T.reshape(-1)[:length].numpy()


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
        return _mono(decoded.data), int(decoded.sample_rate)
    if isinstance(item, dict) and "array" in item:
        if "sampling_rate" not in item:
            raise MediaError(f"{described(item, 'audio')}: expected 'sampling_rate' beside 'array', got {sorted(item)}")
        return _mono(item["array"]), int(item["sampling_rate"])
    if isinstance(item, np.ndarray | torch.Tensor):
        return _mono(item), sampling.rate or 16_000
    return None


def _mono(values: Any) -> np.ndarray:
    """The mean of the channels `(samples,)`, float32; integers are scaled to -1..1."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().float().numpy() if values.is_floating_point() else values.cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind in "iu":
        array = array.astype(np.float32) / -float(np.iinfo(array.dtype).min or -255)
    elif array.dtype.kind != "f":
        raise MediaError(f"{described(array, 'audio')}: expected samples as floats or integers, got {array.dtype}")
    if array.ndim == 2:
        axis = 0 if array.shape[0] <= min(array.shape[1], MOST_CHANNELS) else 1
        if not array.shape[axis] or array.shape[axis] > MOST_CHANNELS:
            raise MediaError(f"{described(array, 'audio')}: expected 1 to {MOST_CHANNELS} channels")
        array = array.mean(axis=axis)
    if array.ndim != 1:
        raise MediaError(
            f"{described(array, 'audio')}: expected (samples,), (channels, samples) or (samples, channels)"
        )
    if not np.isfinite(array).all():
        raise MediaError(f"{described(array, 'audio')}: it has samples that are no finite numbers")
    return np.ascontiguousarray(array, dtype=np.float32)


def _decoded(item: Any, policy: MediaPolicy) -> tuple[np.ndarray, int]:
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
            parts += [_mono(piece.to_ndarray()) for piece in to_float.resample(frame)]
            length += frame.samples
            check_seconds(length / rate, name, policy)
        check_whole(length / rate, seconds_of(container, stream), name)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32), rate


@lru_cache(maxsize=256)
def _say(source: int, target: int) -> None:
    """Once for each pair of rates."""
    logger.info("audio: resampled from %d Hz to the model's %d Hz.", source, target)
