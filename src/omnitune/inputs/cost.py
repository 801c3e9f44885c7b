"""What an item will cost, in tokens, without preprocessing it.

Text costs its characters over the characters of a token; an image the patches that the processor's resize rule leaves
of it, read from its header. Planning needs the order and the proportions of costs, not their exact values.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnitune.errors import MediaRefusedError
from omnitune.inputs.image import image_size
from omnitune.inputs.policy import MediaPolicy
from omnitune.types import Modality

SPECIAL_TOKENS = 2

UNSEEN = (1024, 1024)
"""Width and height assumed of an image that is not downloaded yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRule:
    """Tokens of an image.

    Attributes:
        tokens: A number that all images have, for processors that resize to one size; None computes it from the size.
        cell: Side in pixels of the square that becomes one token (patch size times merge size).
        min_pixels: Images are enlarged to at least so many pixels.
        max_pixels: Images are shrunk to at most so many pixels.
        max_ratio: Longer side over shorter side from which the processor refuses an image; None takes all.
    """

    tokens: int | None = None
    cell: int = 32
    min_pixels: int = 0
    max_pixels: int = 1 << 40
    max_ratio: float | None = None

    def cost(self, width: int, height: int) -> int:
        """Tokens of an image of so many pixels.

        Raises:
            MediaRefusedError: It is so narrow that the processor refuses it.
        """
        if self.tokens is not None:
            return self.tokens
        ratio = max(width, height) / min(width, height)
        if self.max_ratio is not None and ratio > self.max_ratio:
            raise MediaRefusedError(
                f"image of {width}x{height} pixels: expected a longer side of at most {self.max_ratio:g} times the "
                f"shorter one, which is all that the model's processor takes; got {ratio:.0f} times"
            )
        pixels = min(max(width * height, self.min_pixels), self.max_pixels)
        return max(1, round(pixels / self.cell**2))


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRule:
    """Tokens of an item.

    Attributes:
        max_tokens: Tokens after which text is cut, or None.
        characters_per_token: Of an average token of text.
        image: Rule for images.
    """

    max_tokens: int | None = None
    characters_per_token: float = 4.0
    image: ImageRule = ImageRule()


def cost_of(item: Any, modality: Modality, rule: CostRule, policy: MediaPolicy) -> int:
    """Tokens that `item` will have, about.

    Args:
        item: A raw item.
        modality: What it is.
        rule: The model's.
        policy: Limits on media.

    Raises:
        MediaError: An image's header cannot be read.
    """
    if modality == "text":
        return _text(item["text"] if isinstance(item, Mapping) else item, rule)
    if modality == "image":
        return _image(item, rule, policy)
    return _structure(item, rule, policy)


def _text(text: Any, rule: CostRule) -> int:
    characters = sum(map(len, text)) if isinstance(text, tuple | list) else len(str(text))
    tokens = math.ceil(characters / rule.characters_per_token) + SPECIAL_TOKENS
    return tokens if rule.max_tokens is None else min(tokens, rule.max_tokens)


def _image(item: Any, rule: CostRule, policy: MediaPolicy) -> int:
    if isinstance(item, list):
        return sum(_image(part, rule, policy) for part in item)
    if rule.image.tokens is not None:
        return rule.image.tokens
    if isinstance(item, str) and item.startswith(("http://", "https://")):
        return rule.image.cost(*UNSEEN)
    return rule.image.cost(*image_size(item, policy))


def _structure(value: Any, rule: CostRule, policy: MediaPolicy) -> int:
    if isinstance(value, Mapping):
        if value.get("type") == "image":  # a part of a message
            return _image(value.get("image", value.get("url", value.get("path"))), rule, policy)
        return sum(_image(v, rule, policy) if k == "image" else _structure(v, rule, policy) for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(_structure(part, rule, policy) for part in value)
    return _text(value, rule) if isinstance(value, str) else 1
