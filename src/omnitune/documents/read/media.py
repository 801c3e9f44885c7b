"""Recordings and the sound of clips, read from their beginning to their end and held piece by piece.

Only this much of a file is in memory at once: a segment. What is wrong with it is found by the checks of `inputs`
(reader whitelist, truncation, streams without channels).
"""

import io
import wave
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from omnitune import runtime
from omnitune.documents.read.segments import HOP, SILENT
from omnitune.documents.read.text import flat
from omnitune.errors import DocumentError, MediaError
from omnitune.inputs.container import Opened, blocks, opened
from omnitune.inputs.policy import MediaPolicy

Samples = NDArray[np.int16]
"""One channel at `RATE`, `(samples,)`."""

RATE = 16_000
"""Hertz at which segments are kept: what speech models take, in WAV because chat models take that."""

POLICY = MediaPolicy(max_bytes=1 << 62, max_clip_bytes=1 << 62, max_seconds=7 * 86_400.0)
"""A file that someone put into a folder may be as long as a conference; it is never in memory at once."""

MOST_CHAPTERS = 2000

FULL = 32_768
FAINT = 0.001
"""Of full scale: a recording without a louder sample is silent."""

BANDS, CELLS = 17, 16
LOWEST, HIGHEST = 100.0, 7_000.0
"""Hertz between which a fingerprint looks."""
WINDOW = 1024
DEPTH, STEP = 30.0, 3.0
"""Decibels under the loudest band that a fingerprint hears, and by which a band must be louder than the one below. Ten
spoken sentences as MP3, Opus, AAC, or quieter and later differ in at most 5 of 256 bits (with 40 and 3: 15), two
sentences of one voice in at least 57."""
EDGE = 0.01
"""Share of the energy at both ends that is not compared."""

PICTURE = (960, 240)
INK, PAPER, AXIS = "#0067a3", "#ffffff", "#c9ced2"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of `inputs` about a file into errors about a document.

    Raises:
        DocumentError: The file cannot be read.
    """
    try:
        yield
    except MediaError as error:
        raise DocumentError(f"{path.name}: {str(error).removeprefix(f'{path}: ')}") from error


@contextmanager
def document(path: Path, kind: str) -> Iterator[Opened]:
    """Open a file and its first stream of `kind`.

    Raises:
        DocumentError: It cannot be read, or breaks while the block reads it.
    """
    with readable(path), opened(path, POLICY, kind) as found:
        yield found


def chapters(path: Path, kind: str) -> tuple[tuple[str, float, float], ...]:
    """Titles of the chapters that are marked inside a file, and the seconds at which they begin and end.

    Raises:
        DocumentError: It cannot be read.
    """
    found = []
    with document(path, kind) as file:
        for one in file.container.chapters()[:MOST_CHAPTERS]:
            title = flat(one["metadata"].get("title", ""))
            start, end = (float(one[edge] * one["time_base"]) for edge in ("start", "end"))
            if title and 0 <= start < end:
                found.append((title, start, end))
    return tuple(found)


def sound(path: Path) -> Iterator[Samples]:
    """Decode the first sound track of a file in short blocks, the mean of its channels.

    Raises:
        DocumentError: It cannot be read, is broken or truncated, or has no channels or samples.
    """
    av = runtime.require("av", extra="audio")
    with document(path, "audio") as file:
        to_rate = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        rate = file.stream.codec_context.sample_rate
        length = 0
        for block in blocks(file):
            length += len(block)
            frame = av.AudioFrame.from_ndarray(block.mean(axis=1)[None], format="flt", layout="mono")
            frame.sample_rate = rate
            yield from (piece.to_ndarray()[0] for piece in to_rate.resample(frame))
        if not length:
            raise DocumentError(f"{path.name}: it has no samples")
        yield from (piece.to_ndarray()[0] for piece in to_rate.resample(None))


def cut(blocks: Iterable[Samples], boundaries: Sequence[float]) -> Iterator[Samples]:
    """Cut sound into segments, in turn; one that begins after the sound has none, the last takes the rest."""
    ends = [*(round(boundary * RATE) for boundary in boundaries[1:-1]), None]
    rest, place = np.zeros(0, np.int16), 0
    source = iter(blocks)
    for end in ends:
        parts, wanted = [rest], None if end is None else end - place
        held = len(rest)
        while wanted is None or held < wanted:
            block = next(source, None)
            if block is None:
                break
            parts.append(block)
            held += len(block)
        together = np.concatenate(parts)
        found, rest = together[:wanted], together[len(together) if wanted is None else wanted :]
        place += len(found)
        yield found


def levels(blocks: Iterable[Samples]) -> tuple[NDArray[np.float32], float]:
    """Loudness of every `HOP` in decibels of full scale `(hops,)`, and the seconds in all."""
    size = round(HOP * RATE)
    rest, count = np.zeros(0, np.int16), 0
    found: list[NDArray[np.float32]] = []
    for block in blocks:
        count += len(block)
        together = np.concatenate([rest, block])
        whole = len(together) // size * size
        power = np.mean((together[:whole].reshape(-1, size).astype(np.float32) / FULL) ** 2, axis=1)
        decibels: NDArray[np.float32] = 10 * np.log10(np.maximum(power, np.float32(10 ** (SILENT / 10))))
        found.append(decibels)
        rest = together[whole:]
    return np.concatenate(found) if found else np.zeros(0, np.float32), count / RATE


def wav(samples: Samples) -> bytes:
    """Write samples as a WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def is_silent(samples: Samples) -> bool:
    """Tell whether there is nothing to hear."""
    return not len(samples) or int(np.abs(samples.astype(np.int32)).max()) < FAINT * FULL


def audio_fingerprint(samples: Samples) -> str:
    """Difference hash of a recording: for each part of it, whether each band is louder than the one below.

    Returns:
        64 hex digits, or "" for silence.

    Source:
        The idea of Haitsma and Kalker 2002 ("A Highly Robust Audio Fingerprinting System"), coarser.
    """
    if is_silent(samples):
        return ""
    # Without what is faint at both ends: the same words are the same, wherever the cut beside them was.
    energy = np.cumsum(samples.astype(np.float64) ** 2)
    first, last = np.searchsorted(energy, energy[-1] * np.array([EDGE, 1 - EDGE]))
    samples = samples[first : last + 1]
    edges = np.geomspace(LOWEST, HIGHEST, BANDS + 1)
    bands = np.searchsorted(np.fft.rfftfreq(WINDOW, 1 / RATE), edges)
    power = np.stack([np.add.reduceat(_spectrum(cell), bands)[:-1] for cell in np.array_split(samples, CELLS)])
    loud = 10 * np.log10(np.maximum(power, power.max() * 10 ** (-DEPTH / 10)))
    return np.packbits(loud[:, :-1] + STEP < loud[:, 1:]).tobytes().hex()


def _spectrum(samples: Samples) -> NDArray[np.float64]:
    """Mean power spectrum `(WINDOW / 2 + 1,)`."""
    padded = np.pad(samples.astype(np.float64) / FULL, (0, max(0, WINDOW - len(samples))))
    rows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[:: WINDOW // 2]
    mean: NDArray[np.float64] = (np.abs(np.fft.rfft(rows * np.hanning(WINDOW), axis=1)) ** 2).mean(axis=0)
    return mean


def waveform(samples: Samples) -> Image.Image:
    """Draw a recording: its extremes over time, the loudest filling the height."""
    width, height = PICTURE
    image = Image.new("RGB", PICTURE, PAPER)
    canvas = ImageDraw.Draw(image)
    canvas.line((0, height // 2, width, height // 2), fill=AXIS)
    if is_silent(samples):
        return image
    scale = 0.48 * height / float(np.abs(samples.astype(np.int32)).max())
    for column, part in enumerate(np.array_split(samples, width)):
        if len(part):
            top, bottom = height / 2 - scale * int(part.max()), height / 2 - scale * int(part.min())
            canvas.line((column, top, column, bottom), fill=INK)
    return image
