"""Sampling of media in time: the rate of a model's audio, the frames of its clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

FrameRule = Callable[["VideoMetadata"], Sequence[int]]
"""Chooses frames: takes a clip's metadata, returns the numbers of the frames to decode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Demands of a model on media, known before anything is decoded.

    Attributes:
        rate: Hertz of audio; None keeps what a recording has.
        channels: How many of audio; with one, a recording's are averaged.
        frames: The processor's rule for frames; None where it has none. Frames in memory are then taken as they are,
            and of a file `num_frames`, evenly spaced.
        num_frames: See `frames`.
        max_ratio: Longer side over shorter side above which the processor would make too much of an image or clip; None
            where it has a limit of its own.
        sound: Whether a clip in a file is loaded with its sound track, at `rate`.
    """

    rate: int | None = None
    channels: int = 1
    frames: FrameRule | None = None
    num_frames: int = 16
    max_ratio: float | None = None
    sound: bool = False

    def indices(self, facts: "VideoMetadata", *, in_memory: bool) -> list[int]:
        """Numbers of the frames of a clip that are looked at."""
        total = facts.total_num_frames
        if self.frames is not None:
            return [int(index) for index in self.frames(facts)]
        if in_memory:
            return list(range(total))
        return [index * total // self.num_frames for index in range(self.num_frames)]


AS_IT_IS = Sampling()
