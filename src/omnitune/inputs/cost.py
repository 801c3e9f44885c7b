"""Estimated cost of an item, in tokens, without preprocessing it.

Text costs its characters over the characters of a token; an image the patches that the processor's resize rule leaves
of it; audio and video the tokens of their seconds and frames. All is read from the header. Planning needs the order and
the proportions of costs, not their exact values.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import transformers

from omnitune.errors import MediaRefusedError
from omnitune.inputs.detect import MEDIA
from omnitune.inputs.isolated import measure
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import AS_IT_IS, Sampling
from omnitune.inputs.video import are_frames
from omnitune.types import Modality

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

SPECIAL_TOKENS = 2


def unseen(kind: str) -> tuple[Any, ...]:
    """Return the size assumed of media that are not downloaded yet."""
    if kind == "video":
        # Its module takes seconds to load, and only clips need it.
        return (transformers.video_utils.VideoMetadata(total_num_frames=720, fps=24.0, width=1024, height=1024),)
    return {"image": (1024, 1024), "audio": (30.0,)}[kind]


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
class AudioRule:
    """Tokens of a recording.

    Attributes:
        tokens: A number that all recordings have, for processors that pad or cut to one length.
        per_second: Tokens of a second otherwise.
    """

    tokens: int | None = None
    per_second: float = 50.0

    def cost(self, seconds: float) -> int:
        """Tokens of a recording of this length."""
        return max(1, round(seconds * self.per_second)) if self.tokens is None else self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRule:
    """Tokens of a clip.

    Attributes:
        tokens: A number that all clips have, for models that look at so many frames of one size.
        sampling: Which frames are looked at.
        frame: Tokens of a frame.
        together: Consecutive frames that become one.
        max_pixels: Pixels to which all frames together are shrunk.
    """

    tokens: int | None = None
    sampling: Sampling = AS_IT_IS
    frame: ImageRule = ImageRule()
    together: int = 1
    max_pixels: int = 1 << 50

    def cost(self, facts: "VideoMetadata") -> int:
        """Tokens of a clip."""
        if self.tokens is not None:
            return self.tokens
        frames = facts.total_num_frames or 1
        with suppress(ValueError):  # a rule that cannot choose; loading says why
            frames = len(self.sampling.indices(facts, in_memory=facts.fps is None))
        each = self.frame.cost(facts.width or 1, facts.height or 1)
        return max(1, min(frames * each, self.max_pixels // self.frame.cell**2) // self.together)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRule:
    """Tokens of an item.

    Attributes:
        max_tokens: Tokens after which text is cut, or None.
        characters_per_token: Of an average token of text.
        padding_counts: Whether no mask hides the padding of texts, so that what is padded with what changes results.
        image: Rule for images.
        audio: Rule for recordings.
        video: Rule for clips.
    """

    max_tokens: int | None = None
    characters_per_token: float = 4.0
    padding_counts: bool = False
    image: ImageRule = ImageRule()
    audio: AudioRule = AudioRule()
    video: VideoRule = VideoRule()


def cost_of(item: Any, modality: Modality, rule: CostRule, policy: MediaPolicy) -> int:
    """Estimate the tokens of an item.

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
    if modality in MEDIA:
        return _media(item, str(modality), rule, policy)
    return _structure(item, rule, policy)


def _text(text: Any, rule: CostRule) -> int:
    characters = sum(map(len, text)) if isinstance(text, tuple | list) else len(str(text))
    tokens = math.ceil(characters / rule.characters_per_token) + SPECIAL_TOKENS
    return tokens if rule.max_tokens is None else min(tokens, rule.max_tokens)


def _media(item: Any, kind: str, rule: CostRule, policy: MediaPolicy) -> int:
    if isinstance(item, list) and not (kind == "video" and are_frames(item)):
        return sum(_media(part, kind, rule, policy) for part in item)
    of_kind = getattr(rule, kind)
    if of_kind.tokens is not None:
        tokens: int = of_kind.tokens
        return tokens
    away = isinstance(item, str) and item.startswith(("http://", "https://"))
    return int(of_kind.cost(*(unseen(kind) if away else measure(kind, item, policy))))


def _structure(value: Any, rule: CostRule, policy: MediaPolicy) -> int:
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind in MEDIA:  # a part of a message
            return _media(value.get(kind, value.get("url", value.get("path"))), kind, rule, policy)
        return sum(_media(v, k, rule, policy) if k in MEDIA else _structure(v, rule, policy) for k, v in value.items())
    if isinstance(value, list | tuple):
        return sum(_structure(part, rule, policy) for part in value)
    return _text(value, rule) if isinstance(value, str) else 1
