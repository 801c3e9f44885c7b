"""Files that hold sound and pictures in time, opened with PyAV (FFmpeg) within the media policy's limits.

A container may state its length, or FFmpeg may guess one from the bit rate. Only a stated length can show that a file
is cut off: `Opened.packets` compares it with the packets that came.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnitune import runtime
from omnitune.errors import MediaError, MediaRefusedError, OmnituneError
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.source import described, source

FORMATS = "wav,w64,aiff,caf,au,mp3,ogg,flac,aac,amr,mov,matroska,avi,flv,asf,mpeg,mpegvideo,mpegts"
"""FFmpeg's readers that may run. Playlists, which lead to other files and addresses, are not among them."""

OF_STREAM = ("wav", "w64", "aiff", "caf", "au", "flac", "mov")
"""Containers whose header states the length of each stream."""

OF_ALL = ("matroska", "flv", "asf")
"""Containers whose header states one length, which the longest of their streams has."""

XING = re.compile(rb"Xing|Info|VBRI")
"""Marks of the optional header by which an MP3 states its length; of one without it, FFmpeg guesses."""

UNKNOWN_SIZE = 0x7FFF_F000
"""Bytes from which a RIFF size is a placeholder: recorders that write to a pipe put 0x7FFFFFFF, 0x80000000 or
0xFFFFFFFF there, less their header."""

RIFF_SLACK = 16
"""Bytes by which a RIFF size may be wrong: some writers count the eight bytes before it, or a padding byte."""

SHORTFALL = 0.02, 0.5
"""Share, and seconds, by which a stream may be shorter than its header says; one much shorter is truncated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A container with one stream that is read from it.

    Attributes:
        container: PyAV's container.
        stream: PyAV's stream.
        name: What messages call the item.
        policy: Limits.
        stated: Seconds that the header states of the stream, or of the longest one; None where it states nothing.
    """

    container: Any
    stream: Any
    name: str
    policy: MediaPolicy
    stated: float | None

    def packets(self) -> Iterator[Any]:
        """The stream's packets, in the file's order.

        Raises:
            MediaError: They end long before the header says.
            MediaRefusedError: They last longer than the policy allows.
        """
        alone = self.stated is None or _format(self.container) in OF_STREAM
        first: dict[int, float] = {}
        last: dict[int, float] = {}
        held: dict[int, float] = {}
        for packet in self.container.demux(*([self.stream] if alone else [])):
            index = packet.stream_index
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                seconds = float(time * packet.time_base)
                first[index] = min(seconds, first.get(index, seconds))
                last[index] = max(seconds, last.get(index, seconds))
                held[index] = max(seconds + float((packet.duration or 0) * packet.time_base), held.get(index, seconds))
            if index == self.stream.index:
                check_seconds(last.get(index, 0.0) - first.get(index, 0.0), self.name, self.policy)
                yield packet
        if self.stated is not None and first:
            ends, begin = max(last.values()), min(first.values())
            # The last picture of a slide show is held for minutes, which only its packet says, and may say wrongly.
            with_last = max(held.values()) - begin
            share, slack = SHORTFALL
            believed = with_last if with_last <= self.stated * (1 + share) + slack else ends - begin
            if believed < self.stated * (1 - share) - slack:
                raise MediaError(
                    f"{self.name}: truncated: its header says {self.stated:.1f} s, and it ends after {believed:.1f} s"
                )


@contextmanager
def opened(item: Any, policy: MediaPolicy, kind: str) -> Iterator[Opened]:
    """Open an item and find its first stream of `kind`.

    Args:
        item: What `source` takes.
        policy: Limits.
        kind: `"audio"` or `"video"`.

    Raises:
        MediaError: It cannot be read, or breaks while the block reads it; the message names it.
        MediaRefusedError: It breaks the policy.
        MissingExtraError: PyAV is not installed.
    """
    av = runtime.require("av", extra=kind)
    content = source(item, policy, kind)
    name = described(item, kind)
    place = io.BytesIO(content) if isinstance(content, bytes) else str(content)
    lenient = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}  # 19 always is
    try:
        container = av.open(place, options={"format_whitelist": FORMATS}, **lenient)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{name}: no {kind} that can be read: {_reason(error)}") from error
    with container:
        head = _head(content)
        # FFmpeg reads a WAV or AVI file that is shorter than its first chunk says as far as it goes.
        announced = int.from_bytes(head[4:8], "little") + 8
        if head[:4] == b"RIFF" and container.size + RIFF_SLACK < announced < UNKNOWN_SIZE:
            raise MediaError(f"{name}: truncated: its header says {announced} bytes, and it has {container.size}")
        stream = next(iter(getattr(container.streams, kind)), None)
        if stream is None or stream.codec_context is None:
            raise MediaError(f"{name}: there is no {kind} in it")
        if kind == "audio":
            check_rate(stream.codec_context.sample_rate, name, policy)
        stated = _stated(container, stream, head)
        check_seconds(stated, name, policy)
        try:
            yield Opened(container=container, stream=stream, name=name, policy=policy, stated=stated)
        except OmnituneError:
            raise
        except (av.FFmpegError, EOFError, ValueError) as error:  # ValueError: PyAV's, of a stream that changes its form
            raise MediaError(f"{name}: broken {kind}: {_reason(error)}") from error


def blocks(file: Opened) -> Iterator[np.ndarray]:
    """Decode an opened recording piece by piece.

    Args:
        file: With a stream of sound.

    Yields:
        `(samples, channels)`, float32, at the rate of the stream's header throughout.

    Raises:
        MediaError: It is broken or truncated, or has no channels.
        MediaRefusedError: It breaks the policy.
    """
    av = runtime.require("av", extra="audio")
    context = file.stream.codec_context
    rate = context.sample_rate
    if not rate or not context.layout.nb_channels:
        raise MediaError(f"{file.name}: its sound track has no channels")
    form: tuple[Any, ...] | None = None
    convert: Any = None
    length = 0
    cut: Exception | None = None
    for packet in file.packets():
        if cut is not None and packet.size:
            raise cut
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            # A broadcast is recorded from within a packet to within a packet; nothing says that the rest is lost.
            if file.stated is not None or not length:
                raise
            cut = error
            continue
        for frame in frames:
            if frame.is_corrupt:
                raise MediaError(f"{file.name}: broken audio after {length / rate:.1f} s")
            if form != (frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate):
                # Streams put one after another (radio, joined files) change their channels and rate in the middle.
                form = (frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
                check_rate(frame.sample_rate, file.name, file.policy)
                # Packed: of planar sound PyAV 18 hands out eight planes and reads beyond them, which ends the process.
                convert = av.AudioResampler(format="flt", rate=rate)
            for piece in convert.resample(frame):
                length += piece.samples
                check_seconds(length / rate, file.name, file.policy)
                yield piece.to_ndarray().reshape(-1, piece.layout.nb_channels)


def upright(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Turn a frame as its file says that it is shown: telephones store clips as the sensor lies.

    Args:
        pixels: `(height, width, 3)`, of any size.
        frame: PyAV's frame that they are of.

    Returns:
        The same, turned by a multiple of 90 degrees, or mirrored; `(width, height, 3)` after a quarter turn.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # A point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def seconds_of(container: Any, stream: Any) -> float | None:
    """Length that the header gives or FFmpeg guesses, for planning; None where there is none."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def check_seconds(seconds: float | None, name: str, policy: MediaPolicy) -> None:
    """Refuse media longer than the policy allows.

    Raises:
        MediaRefusedError: It is.
    """
    if seconds is not None and seconds > policy.max_seconds:
        raise MediaRefusedError(
            f"{name}: at least {seconds:.0f} s long, more than the media policy's max_seconds={policy.max_seconds:g}"
        )


def check_rate(rate: int, name: str, policy: MediaPolicy) -> None:
    """Refuse a sampling rate above the policy's: filters and buffers grow with it, and a header may claim any.

    Raises:
        MediaRefusedError: It is.
    """
    if rate > policy.max_sampling_rate:
        raise MediaRefusedError(
            f"{name}: {rate} samples a second, more than the media policy's "
            f"max_sampling_rate={policy.max_sampling_rate}"
        )


def _format(container: Any) -> str:
    return str(container.format.name).split(",")[0]


def _stated(container: Any, stream: Any, head: bytes) -> float | None:
    kind = _format(container)
    # FFmpeg sets a length of single streams in Matroska only where it guesses it from their bit rate.
    if kind in OF_ALL and not (kind == "matroska" and stream.duration):
        return container.duration / 1e6 if container.duration else None
    if kind in OF_STREAM or (kind == "mp3" and XING.search(head)):
        return seconds_of(container, stream)
    return None


def _head(content: bytes | Path) -> bytes:
    """The first kilobyte after an ID3 tag, which may hold megabytes of cover art."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        head = file.read(1024)
        if head[:3] == b"ID3" and len(head) >= 10:
            size = 0
            for byte in head[6:10]:  # seven bits in each
                size = size << 7 | byte & 0x7F
            file.seek(10 + size)
            head = file.read(1024)
        return head


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split(":")[0].strip() or type(error).__name__
