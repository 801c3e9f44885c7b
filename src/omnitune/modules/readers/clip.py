"""Clips to what is written and said in them, so that a text encoder serves clips too: video in, text out, no weights.

A few frames go through a `TextReader`, the sound through an `AudioReader`; what both read becomes one text. Each keeps
its readings, so a still picture under a long talk is read once. One text rather than two embeddings: it was measured
(docs/decisions/041). A vision-language model is no reader but a tower of its own, in place of this.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from omnitune.inputs.sampling import Sampling
from omnitune.inputs.video import Clip
from omnitune.modules.base import InputModule
from omnitune.modules.readers.audio import RATE, AudioReader
from omnitune.modules.readers.text import TextReader
from omnitune.types import Features, Modality

if TYPE_CHECKING:
    from transformers.video_utils import VideoMetadata

LEGIBLE = 0.7
"""Least share of a line's marks that are letters or digits: a picture of something is read as dots and strokes."""

_WORD = re.compile(r"[^\W\d_]{3}")


class ClipReader(InputModule):
    """Reads the text in a clip's frames and what is said in it, for the input module after it; texts pass unchanged.

    Args:
        frames: Frames that are read, evenly spaced.
        ocr: Engine of the `TextReader`.
        ocr_language: Its languages.
        speech: Engine of the `AudioReader`.
        speech_language: Its language.

    Raises:
        InputError: There is no such engine.

    Example:
        >>> watching = SentenceTransformer(modules=[ClipReader(frames=2), *model])
        >>> watching.modalities
        ['text', 'video']
    """

    config_keys: ClassVar[list[str]] = ["frames", "ocr", "ocr_language", "speech", "speech_language"]
    save_in_root: ClassVar[bool] = False
    reads: ClassVar[dict[Modality, Modality]] = {"video": "text"}

    def __init__(
        self,
        frames: int = 2,
        ocr: str = "tesseract",
        ocr_language: str = "eng",
        speech: str = "pocketsphinx",
        speech_language: str = "en-us",
    ) -> None:
        super().__init__()
        self.frames, self.ocr, self.ocr_language = frames, ocr, ocr_language
        self.speech, self.speech_language = speech, speech_language
        self.pictures = TextReader(ocr, ocr_language)
        self.sound = AudioReader(speech, speech_language)

    @property
    def modalities(self) -> list[Modality]:
        """Modalities that are read."""
        return list(self.reads)

    def sampling(self, modality: Modality, **kwargs: Any) -> Sampling:  # noqa: ARG002
        """A few frames, and the sound at the rate of speech recognisers."""
        return Sampling(rate=RATE, frames=self._indices, sound=True)

    def _indices(self, facts: "VideoMetadata") -> list[int]:
        """The middles of equal parts: a clip's first and last frames are often of something else."""
        return [(2 * place + 1) * facts.total_num_frames // (2 * self.frames) for place in range(self.frames)]

    def forward(self, features: Features, **kwargs: Any) -> Features:  # noqa: ARG002
        """`features` as they are."""
        return features

    def read(self, items: Sequence[Clip]) -> list[str]:
        """Read what is written and said in loaded clips, in order; empty where there is neither.

        Raises:
            MissingExtraError: An engine's packages are not installed.
            InputError: There is no model for a language.
            ResourceError: An engine does not start.
        """
        images = [
            [Image.fromarray(frame if frame.shape[2] in (1, 3) else frame.transpose(1, 2, 0)) for frame in clip.frames]
            for clip in items
        ]
        seen = iter(self.pictures.read([image for frames in images for image in frames]))
        heard = iter(self.sound.read([clip.sound for clip in items if clip.sound is not None]))
        found = []
        for clip, frames in zip(items, images, strict=True):
            lines = [line for _ in frames for line in legible(next(seen))]
            said = "" if clip.sound is None else next(heard)
            found.append("\n".join([*dict.fromkeys(lines), *filter(None, [said])]))
        return found


def legible(text: str) -> list[str]:
    """The lines of a reading that are words rather than the strokes of a picture."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if _WORD.search(line) and _letters(line) >= LEGIBLE]


def _letters(line: str) -> float:
    marks = line.replace(" ", "")
    return sum(mark.isalnum() for mark in marks) / len(marks)
