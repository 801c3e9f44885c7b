"""Clips as documents: a page is a shot, or a window, kept as a small clip with its sound and as a few key frames.

A segment is encoded again, at `FPS` frames a second and at most so wide as pages are: small, cut exactly, of one format
whatever the file was. H.264 is what every browser plays, so people can look at a segment; MPEG-4, which none plays, is
what an FFmpeg without an encoder of H.264 can write.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnitune import runtime
from omnitune.documents.read import media, segments
from omnitune.documents.read.media import RATE, Samples
from omnitune.documents.read.pages import Description, Page, Rendering, image_hash, keep_segment
from omnitune.errors import DocumentError
from omnitune.inputs.container import upright

Frame = NDArray[np.uint8]
"""`(height, width, 3)`."""

FPS = 4
MOST_FRAMES = 64
"""Of one segment; a longer one has fewer frames a second."""

CRF = 18
"""Coarseness of H.264, from 0 (nothing is lost) to 51: letters stay legible."""
QUALITY = 3
"""Coarseness of MPEG-4's quantizer, from 1 (finest) to 31: likewise."""
KEY_FRAMES = 4
HASHED = (1, 2)
"""Key frames whose hashes tell a segment from others."""

CUT = 0.004
"""Mean change of a thumbnail's channels, of a full scale of 1, from which two frames are not of one shot. Two slides of
one template with three lines of text differ in 0.003 to 0.009, frames of one still slide, compressed, in 0.0001."""
STANDS_OUT = 5.0
"""Times by which a cut changes more than nine in ten of the other frames between the key frames around it: a moving
camera changes every frame."""
MOST_HELD = 3600.0
"""Seconds for which one picture may be shown. More come from times that are wrong, and would be thousands of segments
of the same frame."""

THUMBNAIL = (16, 9)
EXACT = 1e-6
"""Seconds by which times may differ for being rounded."""


def describe(path: Path, rendering: Rendering) -> Description:
    """Decide where a clip is cut.

    Raises:
        DocumentError: It is empty, broken or truncated, or has no frames.
    """
    course = _course(path)
    if rendering.segments == "windows":
        boundaries = segments.windows(course.duration, rendering.seconds)
    else:
        boundaries = segments.even([*_cuts(path, course)], course.duration, rendering.seconds)
    chapters = media.chapters(path, "video")
    return Description(pages=len(boundaries) - 1, boundaries=tuple(boundaries), chapters=chapters)


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Make segments `start` to `stop - 1` of a clip.

    Raises:
        DocumentError: It cannot be read.
    """
    boundaries = rendering.boundaries
    pieces = zip(_frames(path, boundaries, rendering.width), _sounds(path, boundaries), strict=True)
    for index, (frames, samples) in enumerate(islice(pieces, stop)):
        if index < start:
            continue
        shown = [frames[(2 * place + 1) * len(frames) // (2 * KEY_FRAMES)] for place in range(KEY_FRAMES)]
        seconds = boundaries[index + 1] - boundaries[index]
        # Four frames as one picture, in reading order.
        top, bottom = np.concatenate(shown[:2], axis=1), np.concatenate(shown[2:], axis=1)
        # Hashes of some frames and of the sound; "" where nothing is seen or heard.
        hashes = [image_hash(Image.fromarray(shown[place])) for place in HASHED] + [media.audio_fingerprint(samples)]
        yield Page(
            number=index + 1,
            label=segments.label(boundaries[index], boundaries[index + 1]),
            image=keep_segment(
                _encoded(frames, seconds, samples), ".mp4", Image.fromarray(np.concatenate([top, bottom])), folder
            ),
            width=frames[0].shape[1],
            height=frames[0].shape[0],
            fingerprint="".join(part or "0" * 64 for part in hashes) if any(hashes) else "",
            start=boundaries[index],
            end=boundaries[index + 1],
        )


# --- cuts -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Course:
    """Findings of a first pass over a clip, which decodes its key frames alone.

    Attributes:
        duration: Seconds.
        times: Seconds of the key frames from the first frame.
        thumbnails: Of the key frames.
    """

    duration: float = 0.0
    times: list[float] = field(default_factory=list)
    thumbnails: list[NDArray[np.float32]] = field(default_factory=list)


def _course(path: Path) -> _Course:
    found = _Course()
    with media.document(path, "video") as file:
        stream = file.stream
        stream.codec_context.skip_frame = "NONKEY"
        shown: list[int] = []
        for packet in file.packets():
            if packet.size and not packet.is_discard:
                if packet.is_corrupt or _at(packet) is None:
                    raise DocumentError(f"{path.name}: broken video after {len(shown)} frames")
                shown.append(_at(packet) or 0)
            for frame in packet.decode():
                found.times.append(float((_at(frame) or 0) * stream.time_base))
                found.thumbnails.append(_thumbnail(frame))
        if not shown or not found.times:
            raise DocumentError(f"{path.name}: it has no frames")
        shown.sort()
        held = max((after - before for before, after in pairwise(shown)), default=0) * stream.time_base
        if held > MOST_HELD:
            raise DocumentError(
                f"{path.name}: its times are wrong: two frames in a row lie {float(held):.0f} s apart, expected at "
                f"most {MOST_HELD:.0f} s"
            )
        found.duration = float((shown[-1] - shown[0]) * stream.time_base) + 1 / float(stream.average_rate or FPS)
        whole = (file.container.duration or 0) / 1e6
        if file.stated is not None and segments.SHORTEST < whole - found.duration <= MOST_HELD:
            found.duration = whole  # the sound goes on, or the last picture stays
        begin = float(shown[0] * stream.time_base)
        found.times = [time - begin for time in found.times]
    return found


def _cuts(path: Path, course: _Course) -> Iterator[float]:
    """Seconds at which another shot begins: looked for where a key frame differs from the one before it."""
    known = zip(course.times, course.thumbnails, strict=True)
    for (one, before), (other, after) in pairwise(known):
        if _change(before, after) >= CUT:
            between = [*_between(path, one, other)]  # none where times are wrong
            yield from (between[place][0] for place in _places([thumbnail for _, thumbnail in between]))


def _places(thumbnails: Sequence[NDArray[np.float32]]) -> Iterator[int]:
    """Find the frames, of some in a row, that begin another shot."""
    changes = [_change(before, after) for before, after in pairwise(thumbnails)]
    others = sorted(changes)[:-1]
    enough = max(CUT, STANDS_OUT * float(np.quantile(others, 0.9))) if others else CUT
    yield from (place for place, change in enumerate(changes, start=1) if change >= enough)


def _between(path: Path, start: float, stop: float) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Times and thumbnails of the frames from the key frame at `start` to the one at `stop`."""
    for time, frame in _decoded(path, start):
        if time > stop + EXACT:
            return
        if time >= start - EXACT:
            yield time, _thumbnail(frame)


def _change(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())


def _thumbnail(frame: Any) -> NDArray[np.float32]:
    small: NDArray[np.float32] = frame.reformat(
        width=THUMBNAIL[0], height=THUMBNAIL[1], format="rgb24", interpolation="AREA"
    ).to_ndarray() / np.float32(255)
    return small


# --- frames and sound -------------------------------------------------------------------------------------------------


def _decoded(path: Path, start: float = 0.0) -> Iterator[tuple[float, Any]]:
    """Seconds and frames from the key frame at or before `start` on."""
    with media.document(path, "video") as file:
        container, stream = file.container, file.stream
        begin = stream.start_time or 0
        if start:
            container.seek(begin + round(start / float(stream.time_base)), stream=stream)
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise DocumentError(f"{path.name}: broken video")
            at = _at(frame)
            if at is not None:
                yield float((at - begin) * stream.time_base), frame


def _frames(path: Path, boundaries: Sequence[float], width: int) -> Iterator[list[Frame]]:
    """Frames of every segment in turn, at least one: where none begins, the last one is still shown."""
    index, found, following = 0, list[Frame](), boundaries[0]
    last: Any = None
    size: tuple[int, int] | None = None
    for time, frame in _decoded(path):
        if size is None:  # of the first frame, as a stream may change it in the middle; even, as encoders want sides
            scale = min(1.0, width / (frame.height if frame.rotation % 180 else frame.width))
            size = max(2, round(frame.width * scale / 2) * 2), max(2, round(frame.height * scale / 2) * 2)
        while index + 2 < len(boundaries) and time >= boundaries[index + 1] - EXACT:
            yield found or [_pixels(last or frame, size)]
            index, found, following = index + 1, [], boundaries[index + 1]
        if time >= following - EXACT and len(found) < MOST_FRAMES:
            found.append(_pixels(frame, size))
            following += max(1 / FPS, (boundaries[index + 1] - boundaries[index]) / MOST_FRAMES)
        last = frame
    if last is None or size is None:
        raise DocumentError(f"{path.name}: it has no frames")
    for _ in range(index, len(boundaries) - 1):
        yield found or [_pixels(last, size)]
        found = []


def _pixels(frame: Any, size: tuple[int, int]) -> Frame:
    pixels: Frame = upright(frame.reformat(*size, format="rgb24", interpolation="AREA").to_ndarray(), frame)
    return pixels


def _sounds(path: Path, boundaries: Sequence[float]) -> Iterator[Samples]:
    """The sound of every segment in turn; no samples without a sound track, or where it has ended."""
    with media.document(path, "video") as file:
        has_sound = bool(file.container.streams.audio)
    yield from media.cut(media.sound(path) if has_sound else iter(()), boundaries)


def _at(timed: Any) -> int | None:
    """Time of a packet or frame in its stream's units."""
    time: int | None = timed.pts if timed.pts is not None else timed.dts
    return time


# --- what is kept -----------------------------------------------------------------------------------------------------


def _encoded(frames: Sequence[Frame], seconds: float, samples: Samples) -> bytes:
    """An MP4 file: equal frames and samples give equal bytes."""
    av = runtime.require("av", extra="video")
    buffer = io.BytesIO()
    rate = Fraction(len(frames) / seconds).limit_denominator(1000)
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        if "libx264" in av.codecs_available:
            options = {"preset": "veryfast", "crf": str(CRF), "bf": "0"}
            pictures = container.add_stream("libx264", rate=rate, options=options)
        else:
            pictures = container.add_stream("mpeg4", rate=rate, options={"qmin": str(QUALITY), "qmax": str(QUALITY)})
        pictures.height, pictures.width = frames[0].shape[:2]
        pictures.pix_fmt = "yuv420p"
        pictures.codec_context.thread_count = 1
        track = container.add_stream("aac", rate=RATE, layout="mono") if len(samples) else None
        for frame in frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(pictures.encode())
        if track is not None:
            whole = av.AudioFrame.from_ndarray((samples / np.float32(media.FULL))[None], format="fltp", layout="mono")
            whole.sample_rate, whole.pts, whole.time_base = RATE, 0, Fraction(1, RATE)
            fifo = av.AudioFifo()
            fifo.write(whole)
            for part in fifo.read_many(1024, partial=True):
                container.mux(track.encode(part))
            container.mux(track.encode())
    return buffer.getvalue()
