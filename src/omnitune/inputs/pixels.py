"""Pixel values as the bytes that they were made of, where that loses nothing.

Processors resize an image to 8 bits a channel, then scale and shift these to floats; so a quarter of the bytes says the
same. Which scale a processor applies is read from it and then proven: what does not come back to the last bit stays as
it is. Bytes are turned back where they are used, on the device, with the processor's own operations in its order.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from omnitune.types import Features

KEYS = ("pixel_values", "pixel_values_videos")
"""Features that may be bytes."""

SCALE = "_scale"
"""Ending of the feature that says how bytes become floats: `(axis of the channels, factor, means..., deviations...)`.

The means and deviations are of the numbers after the factor, one a channel.
"""


def in_bytes(features: Features, processor: Any) -> Features:
    """Features whose pixel values are bytes where they come back equal; the others as they are.

    Args:
        features: From `processor`, float32.
        processor: A processor, whose image and video processors say how they scale.
    """
    made = dict(features)
    for key, part in zip(KEYS, ("image_processor", "video_processor"), strict=True):
        values = features.get(key)
        if not isinstance(values, Tensor) or values.dtype != torch.float32:
            continue
        for scale in _scales(getattr(processor, part, processor), values):
            shaped, factor, mean, std = _spread(values, scale)
            levels = ((shaped * std + mean) / factor).round_().clamp_(0, 255).to(torch.uint8).view(values.shape)
            if torch.equal(_floats(levels, scale), values):
                made |= {key: levels, key + SCALE: scale}
                break
    return made


def in_floats(features: Features) -> Features:
    """Features whose pixel values are floats again, on the device where the bytes are."""
    made = {key: value for key, value in features.items() if not key.endswith(SCALE)}
    for key in KEYS:
        if key in made and key + SCALE in features:
            made[key] = _floats(made[key], features[key + SCALE])
    return made


def _scales(processor: Any, values: Tensor) -> Iterator[tuple[float, ...]]:
    """Every way in which the processor may have scaled bytes to `values`."""
    factor = float(getattr(processor, "rescale_factor", None) or 1) if getattr(processor, "do_rescale", False) else 1.0
    normalizes = getattr(processor, "do_normalize", False)
    given = [getattr(processor, name, None) if normalizes else None for name in ("image_mean", "image_std")]
    mean, std = (list(v) if isinstance(v, list | tuple) else [v] for v in given)
    if None in (*mean, *std):
        mean, std = [0.0], [1.0]
    channels = max(len(mean), len(std))
    numbers = [*(mean * channels)[:channels], *(std * channels)[:channels]]
    # Rounded where processors round: the factor goes into means and deviations that are float32 already.
    fused = torch.tensor(numbers, dtype=torch.float32) * (1.0 / factor)
    for axis in _channel_axes(values, channels):
        yield (axis, 1.0, *fused.tolist())
        yield (axis, factor, *map(float, numbers))


def _channel_axes(values: Tensor, channels: int) -> list[int]:
    """Axes that may count channels; of patches in one row each, channels come first in it."""
    if values.dim() == 2:
        return [1] if values.shape[1] % channels == 0 else []
    return [axis for axis in range(1, values.dim()) if channels == 1 or values.shape[axis] == channels]


def _floats(levels: Tensor, scale: Sequence[float]) -> Tensor:
    shaped, factor, mean, std = _spread(levels, scale)
    floats = shaped.float()
    if factor != 1.0:
        floats = floats * factor
    return floats.sub_(mean).div_(std).view(levels.shape)


def _spread(tensor: Tensor, scale: Sequence[float]) -> tuple[Tensor, float, Tensor, Tensor]:
    """The tensor with an axis of channels, the factor, and means and deviations along that axis."""
    axis, channels = int(scale[0]), (len(scale) - 2) // 2
    shaped = tensor.reshape(len(tensor), channels, -1) if tensor.dim() == 2 else tensor
    shape = [channels if place == axis else 1 for place in range(shaped.dim())]
    numbers = torch.tensor(scale[2:], dtype=torch.float32, device=tensor.device)
    return shaped, scale[1], numbers[:channels].view(shape), numbers[channels:].view(shape)
