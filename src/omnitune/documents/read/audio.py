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
        marks = segments.windows(duration, rendering.seconds)
    else:
        marks = segments.at_pauses(levels, duration, rendering.seconds)
    return Description(pages=len(marks) - 1, marks=tuple(marks))


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Make segments `start` to `stop - 1` of a recording.

    Raises:
        DocumentError: It cannot be read.
    """
    marks = rendering.marks
    for index, samples in enumerate(islice(media.cut(media.sound(path), marks), stop)):
        if index >= start:
            yield Page(
                number=index + 1,
                label=segments.label(marks[index], marks[index + 1]),
                image=keep_segment(media.wav(samples), ".wav", media.waveform(samples), folder),
                width=0,
                height=0,
                look=media.audio_fingerprint(samples),
                start=marks[index],
                end=marks[index + 1],
            )
