"""Messages that show a query writer a page image, a recording or a clip, with the request.

Behind an OpenAI-compatible API, images go as `image_url` parts with a data URL, and sound as `input_audio` parts with
WAV in base64: OpenAI and vLLM ("Multimodal Inputs", online serving) read both. A clip goes as some of its frames, each
an image after a line with its time, because `video_url` is read by vLLM and not by OpenAI; a vLLM server must allow so
many images (`--limit-mm-per-prompt '{"image": 8}'`).
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from omnitune.documents.read.media import RATE, wav
from omnitune.inputs.audio import audio_size, load_audio
from omnitune.inputs.detect import MEDIA, modality_of
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.inputs.sampling import Sampling
from omnitune.inputs.video import load_video, video_size

ShownKind = Literal["image", "audio", "video"]

PROMPT = """\
{opening} Write {count} search queries that this {noun} answers, as people would type them who
have never {met} it.
- Use the language of the {noun}.
- Each query must make sense alone: never mention "this {noun}", or {parts} of it.
- Use your own words; do not copy phrases.
- Mix short keyword queries and full questions; ask about what is particular to this {noun}.
Answer with one query a line and nothing else. If the {noun} has nothing worth asking about, answer NONE."""

FRAMES = 8
"""Frames of a clip that are sent, evenly spaced."""

LONGEST_EDGE = 768
"""Pixels of a frame that is sent."""

PIXELS_A_TOKEN = 28 * 28
"""Pixels that one image token covers in vision-language models of the Qwen family; for the estimate alone."""

TOKENS_A_SECOND = 25
"""Of sound, in Qwen2-Audio and Qwen2.5-Omni; for the estimate alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Words of the request for one kind of media.

    Attributes:
        noun: What it is called.
        opening: The first sentence: what is shown.
        met: What people have never done with it.
        parts: What of it a query must not mention.
    """

    noun: str
    opening: str
    met: str
    parts: str


SUBJECTS: dict[ShownKind, Subject] = {
    "image": Subject(
        noun="page",
        opening="The image is one page of a document.",
        met="seen",
        parts="a figure, table or section",
    ),
    "audio": Subject(
        noun="recording",
        opening="The audio is one part of a recording.",
        met="heard",
        parts="a speaker, voice or moment",
    ),
    "video": Subject(
        noun="clip",
        opening="The images are frames of one clip, in order, with their times.",
        met="seen",
        parts="a frame, image or moment",
    ),
}


def kind_of(path: Path) -> ShownKind:
    """Decide by its name what is in a file."""
    return cast(ShownKind, modality_of(path, supported=list(MEDIA)))


def request(kind: ShownKind, count: int, *, whole: bool = False) -> str:
    """The text that asks for queries.

    Args:
        kind: What is shown.
        count: Queries to ask for.
        whole: Whether a clip is shown as a clip and not as frames.
    """
    subject = SUBJECTS[kind]
    opening = "The video is one clip." if kind == "video" and whole else subject.opening
    return PROMPT.format(count=count, opening=opening, noun=subject.noun, met=subject.met, parts=subject.parts)


def counted(kinds: Sequence[ShownKind]) -> str:
    """So many of what they are, in words: "6 pages", or "6 items" where they differ."""
    nouns = {SUBJECTS[kind].noun for kind in kinds}
    return f"{len(kinds):,} {nouns.pop() if len(nouns) == 1 else 'item' if nouns else 'page'}s"


def tokens(path: Path, kind: ShownKind) -> int:
    """About how many tokens a model makes of it; from headers alone."""
    if kind == "audio":
        return round(audio_size(path, DEFAULT_POLICY)[0] * TOKENS_A_SECOND)
    if kind == "video":
        (facts,) = video_size(path, DEFAULT_POLICY)
        shrunk = min(1.0, LONGEST_EDGE / max(facts.width, facts.height))
        return int(FRAMES * facts.width * facts.height * shrunk**2 / PIXELS_A_TOKEN)
    with Image.open(path) as image:
        return image.width * image.height // PIXELS_A_TOKEN


def content(path: Path, kind: ShownKind) -> list[dict[str, Any]]:
    """The parts of a message that show it to a model behind an API.

    Raises:
        MediaError: A recording or a clip cannot be read; names it.
    """
    if kind == "audio":
        samples = load_audio(path, DEFAULT_POLICY, Sampling(rate=RATE))
        file = wav((samples.clip(-1, 1) * 32767).round().astype(np.int16))
        return [{"type": "input_audio", "input_audio": {"data": base64.b64encode(file).decode(), "format": "wav"}}]
    if kind == "video":
        clip = load_video(path, DEFAULT_POLICY, Sampling(num_frames=FRAMES))
        made: list[dict[str, Any]] = []
        numbers = list(clip.metadata.frames_indices or [])
        for place, number in enumerate(numbers):
            if number in numbers[:place]:  # a very short clip has fewer frames than are asked for
                continue
            seconds = number / (clip.metadata.fps or 1.0)
            image = Image.fromarray(clip.frames[place])
            image.thumbnail((LONGEST_EDGE, LONGEST_EDGE))
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=90)
            made += [{"type": "text", "text": f"{seconds:.1f} s"}, _picture("jpeg", encoded.getvalue())]
        return made
    form = "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else path.suffix.lower().removeprefix(".")
    return [_picture(form, path.read_bytes())]


def _picture(form: str, encoded: bytes) -> dict[str, Any]:
    data = base64.b64encode(encoded).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{data}"}}
