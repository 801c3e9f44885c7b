"""How many tokens an image takes, read off the processor: planning needs it before any pixel is decoded."""

from typing import Any

import transformers

from omnitune.inputs.cost import CostRule, ImageRule

UNLIMITED = 1 << 30
"""Tokenizers without a limit say one like this, or more."""

QWEN_RATIO = 200
"""Longer side over shorter side that processors of the Qwen-VL kind take at most (`smart_resize` in transformers)."""


def cost_rule(processor: Any, config: Any, max_tokens: int | None) -> CostRule:
    """The rule of a backbone.

    Args:
        processor: Its processor.
        config: Its configuration.
        max_tokens: Tokens after which text is cut.
    """
    limit = max_tokens if max_tokens is not None and max_tokens < UNLIMITED else None
    images = (
        processor
        if isinstance(processor, transformers.ImageProcessingMixin)
        else getattr(processor, "image_processor", None)
    )
    if images is None:
        return CostRule(max_tokens=limit)
    return CostRule(max_tokens=limit, image=_image_rule(processor, images, config))


def _image_rule(processor: Any, images: Any, config: Any) -> ImageRule:
    vision = getattr(config, "vision_config", config)
    patch = _side(getattr(images, "patch_size", None) or getattr(vision, "patch_size", None) or 16)
    size = dict(getattr(images, "size", None) or {})
    merge = getattr(images, "merge_size", None)
    if merge and "longest_edge" in size:  # Qwen-VL: any size between two numbers of pixels
        pixels = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        return ImageRule(cell=patch * merge, max_ratio=QWEN_RATIO, **pixels)
    patches = getattr(images, "max_num_patches", None)
    if patches:  # SigLIP 2: any size up to a number of patches
        return ImageRule(tokens=patches)
    for name in ("image_seq_len", "image_seq_length"):
        per_tile = getattr(processor, name, None) or getattr(images, name, None)
        if per_tile:
            return ImageRule(tokens=per_tile * _tiles(images, size))
    side = _side(getattr(vision, "image_size", None) or 224)
    return ImageRule(tokens=max(1, (side // patch) ** 2))


def _tiles(images: Any, size: dict[str, int]) -> int:
    """Tiles that an image is cut into, the whole image included; every image is enlarged to the same longest edge."""
    tile = dict(getattr(images, "max_image_size", None) or {}).get("longest_edge")
    if not tile or not getattr(images, "do_image_splitting", False) or "longest_edge" not in size:
        return 1
    return int((size["longest_edge"] // tile) ** 2 + 1)


def _side(value: Any) -> int:
    return int(value[0] if isinstance(value, list | tuple) else value)
