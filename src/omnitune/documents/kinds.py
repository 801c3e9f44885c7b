"""Kinds of folders: pages, recordings or clips, and all that differs between them but the reading itself."""

from dataclasses import dataclass
from typing import Literal

from omnitune.errors import InputError
from omnitune.report.parts import Words

KindName = Literal["pages", "recordings", "clips"]
Segmentation = Literal["auto", "windows", "silence", "shots"]

LEAST_SECONDS = 1.0
"""Shortest that the longest segment may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of document.

    Attributes:
        name: As the setting `kind` names it.
        modality: What a page is to a model.
        words: What people call its parts.
        files: Forms of files that it is read from, for messages.
        reader: Module that reads it; None for those that no other kind has.
        settings: Names of the settings that decide how it becomes pages (see `pages.Rendering`).
        segmentations: Where it may be cut into segments, the usual one first; none for what has pages.
        extra: Extra with the package that reads it, and that package; None where it is always there.
        written: What the test asks, in words.
        own_text: Whether a page's text is the document's own; a reading of a model serves the baselines alone.
        captioned: Whether queries are captions out of files beside the documents.
        megabyte: Seconds that describing a megabyte of it may take.
        memory: Bytes that the process that reads it may allocate.
    """

    name: KindName
    modality: Literal["image", "audio", "video"]
    words: Words
    files: str
    reader: str | None = None
    settings: tuple[str, ...]
    segmentations: tuple[Segmentation, ...] = ()
    extra: tuple[str, str] | None = None
    written: str
    own_text: bool = False
    captioned: bool = True
    megabyte: float = 0.0
    memory: int = 2 << 30


PAGES = Kind(
    name="pages",
    modality="image",
    words=Words(),
    files="PDF, images, Word, PowerPoint, Excel, OpenDocument, HTML, Markdown, text, e-mail",
    settings=("width", "max_pixels"),
    written="outline titles, captions and headings",
    own_text=True,
    captioned=False,
)
RECORDINGS = Kind(
    name="recordings",
    modality="audio",
    words=Words(document="recording", page="segment", sees="sound", text="transcript"),
    files="WAV, MP3, FLAC and other sound",
    reader="omnitune.documents.read.audio",
    settings=("segments", "seconds"),
    segmentations=("silence", "windows"),
    extra=("audio", "av"),
    written="the captions",
    megabyte=10.0,
    memory=4 << 30,
)
CLIPS = Kind(
    name="clips",
    modality="video",
    words=Words(document="clip", page="segment", sees="clip", text="text read"),
    files="MP4, MKV, WebM and other video",
    reader="omnitune.documents.read.video",
    settings=("width", "segments", "seconds"),
    segmentations=("shots", "windows"),
    extra=("video", "av"),
    written="the captions",
    megabyte=10.0,
    memory=4 << 30,
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in (PAGES, RECORDINGS, CLIPS)}


def kind_of(reader: str) -> Kind:
    """The kind that a reader's module reads."""
    return next((kind for kind in KINDS.values() if kind.reader == reader), PAGES)


def segmentation_of(kind: Kind, segments: Segmentation, seconds: float) -> str:
    """Decide where documents of a kind are cut, "" where they are not.

    Raises:
        InputError: The kind is not cut so, or into pieces that are too short.
    """
    if segments != "auto" and segments not in kind.segmentations:
        segmentations = ", ".join(map(repr, ("auto", *kind.segmentations)))
        raise InputError(f"segments: expected {segmentations} for {kind.name}, got {segments!r}")
    if seconds < LEAST_SECONDS:
        raise InputError(f"seconds: expected at least {LEAST_SECONDS:g}, the longest segment, got {seconds:g}")
    return (kind.segmentations[0] if segments == "auto" else segments) if kind.segmentations else ""
