"""Recordings as documents: a page is a segment between two pauses, or a window, kept as WAV and as a waveform."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from omnitune.documents.read import media, segments
from omnitune.documents.read.pages import Description, Page, Rendering, keep_segment


def describe(path: Path, rendering: Rendering) -> Description:
    """Decide where a recording is cut.

    Raises:
        DocumentError: It is empty, broken or truncated, or has no channels or samples.
    """
    levels, duration = media.levels(media.sound(path))
    if rendering.segments == "windows":
        boundaries = segments.windows(duration, rendering.seconds)
    else:
        boundaries = segments.at_pauses(levels, duration, rendering.seconds)
    chapters = media.chapters(path, "audio")
    return Description(pages=len(boundaries) - 1, boundaries=tuple(boundaries), chapters=chapters)


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Make segments `start` to `stop - 1` of a recording.

    Raises:
        DocumentError: It cannot be read.
    """
    boundaries = rendering.boundaries
    for index, samples in enumerate(islice(media.cut(media.sound(path), boundaries), stop)):
        if index >= start:
            yield Page(
                number=index + 1,
                label=segments.label(boundaries[index], boundaries[index + 1]),
                image=keep_segment(media.wav(samples), ".wav", media.waveform(samples), folder),
                width=0,
                height=0,
                fingerprint=media.audio_fingerprint(samples),
                start=boundaries[index],
                end=boundaries[index + 1],
            )
