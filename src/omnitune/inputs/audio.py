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

from omnitune.errors import MediaError
from omnitune.inputs.container import blocks, check_rate, check_seconds, opened, seconds_of
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import Sampling
from omnitune.inputs.source import described

logger = logging.getLogger(__name__)

SIGNATURE = (
    rb"RIFF....WAVE|OggS|fLaC|ID3|\xff[\xe2-\xfb]|....ftypM4[AB]|FORM....AIF|caff|\.snd|#!AMR|riff\x2e\x91\xcf\x11"
)
"""Regular expression of the first bytes of a recording."""

MOST_CHANNELS = 32
"""An array `(a, b)` with one side this short holds channels along it."""

ZERO_CROSSINGS = 32
"""Of the resampling filter on each side; the pass band ends at `ROLLOFF` of the lower Nyquist frequency."""

ROLLOFF = 0.945
KAISER_BETA = 14.77

MOST_TAPS = 1 << 20
"""Of the interpolated filters that are worked on at once."""

MOST_OF_TABLE = 1 << 22
"""Taps of the filters of all phases, in a table of 16 MB; from 1 Hz to 16 kHz it has 1.1 million."""

FINE = 2048
"""Values of the filter between two zero crossings, where it is interpolated: 1e-6 from the exact one."""


def load_audio(item: Any, policy: MediaPolicy, sampling: Sampling) -> np.ndarray:
    """Load a waveform with the model's channels, at its rate.

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
    name = described(item, "audio")
    if not samples.size:
        raise MediaError(f"{name}: it has no samples")
    check_rate(rate, name, policy)
    check_seconds(samples.shape[-1] / rate, name, policy)
    if sampling.rate is None or sampling.rate == rate:
        return samples
    check_rate(sampling.rate, "the model's processor", policy)
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
        return (max(np.shape(item["array"]), default=0) / _rate_of(item),)
    if isinstance(item, np.ndarray | torch.Tensor):
        return (max(item.shape, default=0) / 16_000,)
    with opened(item, policy, "audio") as file:
        return (seconds_of(file.container, file.stream) or 0.0,)


def resample(samples: np.ndarray, source: int, target: int) -> np.ndarray:
    """Change a waveform's rate.

    Args:
        samples: `(samples,)` or `(channels, samples)`.
        source: Its rate in hertz.
        target: The wanted one.

    Returns:
        `(ceil(samples * target / source),)`, float32; with its channels, if there were any.

    Source:
        Smith, "Digital Audio Resampling": band-limited interpolation, here with a Kaiser window.

    Example:
        >>> resample(np.zeros((2, 44_100), np.float32), 44_100, 16_000).shape
        (2, 16000)
    """
    divisor = math.gcd(source, target)
    step, phases = source // divisor, target // divisor
    length = -(-samples.shape[-1] * phases // step)
    rows = torch.from_numpy(np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32))
    cutoff = min(1.0, target / source) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS / cutoff)
    # A table holds a filter for every phase. Of rates with a small common divisor (16,001 and 16,000 Hz) it would be
    # gigabytes, and a header may claim any rate.
    if phases * (2 * width + step) <= MOST_OF_TABLE:
        padded = F.pad(rows, (width, width + step))[:, None]
        made = F.conv1d(padded, _phases(step, phases, cutoff, width), stride=step)  # (channels, phases, steps)
        resampled = made.transpose(1, 2).flatten(1)[:, :length].numpy()
    else:
        resampled = _interpolated(rows, step, phases, cutoff, width, length)
    return resampled if samples.ndim == 2 else resampled[0]


@lru_cache(maxsize=16)
def _phases(step: int, phases: int, cutoff: float, width: int) -> Tensor:
    """Filter `(phases, 1, taps)` of every output phase."""
    taps = torch.arange(-width, width + step, dtype=torch.float64)[None]
    distance = (taps - torch.arange(phases, dtype=torch.float64)[:, None] * step / phases) * cutoff
    return (_filter(distance) * cutoff).float()[:, None]


def _interpolated(rows: Tensor, step: int, phases: int, cutoff: float, width: int, length: int) -> np.ndarray:
    """Resampled rows `(channels, length)`: the filter is read from one table, linearly, for each sample and tap."""
    table = _filter(torch.arange(-ZERO_CROSSINGS * FINE, ZERO_CROSSINGS * FINE + 2, dtype=torch.float64) / FINE).float()
    taps = torch.arange(-width, width + 1)
    padded = F.pad(rows, (width, width + 1))
    made = torch.empty(len(rows), length)
    block = max(1, MOST_TAPS // len(taps))
    for start in range(0, length, block):
        numbers = torch.arange(start, min(start + block, length)) * step
        whole = numbers // phases
        part = (numbers % phases).double() / phases
        place = ((taps - part[:, None]) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        place = (place + ZERO_CROSSINGS) * FINE
        low = place.long()
        weights = torch.lerp(table[low], table[low + 1], (place - low).float())
        windows = padded[:, whole[:, None] + (taps + width)]
        made[:, start : start + block] = (windows * weights).sum(-1) * cutoff
    return made.numpy()


def _filter(distance: Tensor) -> Tensor:
    """Kaiser-windowed sinc at a distance in zero crossings, 0 beyond the last."""
    inside = (1 - (distance / ZERO_CROSSINGS) ** 2).clamp(min=0).sqrt()
    window = torch.special.i0(KAISER_BETA * inside) / torch.special.i0(torch.tensor(KAISER_BETA, dtype=torch.float64))
    return torch.sinc(distance) * torch.where(distance.abs() < ZERO_CROSSINGS, window, 0.0)


def _in_memory(item: Any, sampling: Sampling) -> tuple[np.ndarray, int] | None:
    """Samples and their rate where they are decoded already."""
    if hasattr(item, "get_all_samples"):
        decoded = item.get_all_samples()
        return _mixed(decoded.data, sampling.channels), int(decoded.sample_rate)
    if isinstance(item, dict) and "array" in item:
        return _mixed(item["array"], sampling.channels), _rate_of(item)
    if isinstance(item, np.ndarray | torch.Tensor):
        return _mixed(item, sampling.channels), sampling.rate or 16_000
    return None


def _rate_of(item: dict[str, Any]) -> int:
    rate = item.get("sampling_rate")
    kinds = int | float | np.integer | np.floating
    if isinstance(rate, bool) or not isinstance(rate, kinds) or not 1 <= rate < math.inf:
        raise MediaError(
            f"{described(item, 'audio')}: expected samples a second as 'sampling_rate' beside 'array', got {rate!r}"
        )
    return int(rate)


def _mixed(values: Any, channels: int, *, axis: int | None = None) -> np.ndarray:
    """As many channels as asked for, float32: `(samples,)` for one, else `(channels, samples)`.

    Integers are scaled to -1..1; other channels than those asked for become their mean. They lie along `axis`, or where
    that is None along the short side.
    """
    array = _floats(values)
    if array.ndim == 2:
        if axis is None:
            axis = 0 if array.shape[0] <= min(array.shape[1], MOST_CHANNELS) else 1
            if array.shape[axis] > MOST_CHANNELS:
                raise MediaError(f"{described(array, 'audio')}: expected 1 to {MOST_CHANNELS} channels")
        if not array.shape[axis]:
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
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.empty(0, object)
    if array.dtype.kind in "iu":
        return array.astype(np.float32) / -float(np.iinfo(array.dtype).min or -255)
    if array.dtype.kind != "f":
        raise MediaError(f"{described(array, 'audio')}: expected samples as floats or integers, got {array.dtype}")
    return array


def _decoded(item: Any, policy: MediaPolicy, channels: int) -> tuple[np.ndarray, int]:
    """Samples of the first sound track, and their rate."""
    with opened(item, policy, "audio") as file:
        rate = file.stream.codec_context.sample_rate
        parts = [_mixed(piece, channels, axis=1) for piece in blocks(file)]
    return np.concatenate(parts, axis=-1) if parts else np.zeros(0, np.float32), rate


@lru_cache(maxsize=256)
def _say(source: int, target: int) -> None:
    """Once for each pair of rates."""
    logger.info("audio: resampled from %d Hz to the model's %d Hz.", source, target)
