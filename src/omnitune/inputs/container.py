"""Files that hold sound and pictures in time, opened with PyAV (FFmpeg) within the media policy's limits."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnitune import runtime
from omnitune.errors import MediaError, MediaRefusedError
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.source import described, source

FORMATS = "wav,w64,aiff,caf,au,mp3,ogg,flac,aac,amr,mov,matroska,avi,flv,asf,mpeg,mpegvideo,mpegts"
"""FFmpeg's readers that may run. Playlists, which lead to other files and addresses, are not among them."""

STREAMED = 0xFFFFFFFF
"""Bytes that the header says of a WAV file written before its length was known, less eight."""

SHORTFALL = 0.02, 0.5
"""Share, and seconds, by which a stream may be shorter than its header says; one much shorter is truncated."""


@contextmanager
def opened(item: Any, policy: MediaPolicy, kind: str) -> Iterator[tuple[Any, Any]]:
    """The container of an item and its first stream of `kind`.

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
    try:
        container = av.open(place, options={"format_whitelist": FORMATS}, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{name}: no {kind} that can be read: {_reason(error)}") from error
    with container:
        _check_riff(content, container.size, name)
        stream = next(iter(getattr(container.streams, kind)), None)
        if stream is None or stream.codec_context is None:
            raise MediaError(f"{name}: there is no {kind} in it")
        check_seconds(seconds_of(container, stream), name, policy)
        try:
            yield container, stream
        except (av.FFmpegError, EOFError) as error:
            raise MediaError(f"{name}: broken {kind}: {_reason(error)}") from error


def seconds_of(container: Any, stream: Any) -> float | None:
    """Length that the header gives, or None."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def check_seconds(seconds: float | None, name: str, policy: MediaPolicy) -> None:
    """Refuse what is longer than the policy allows.

    Raises:
        MediaRefusedError: It is.
    """
    if seconds is not None and seconds > policy.max_seconds:
        raise MediaRefusedError(
            f"{name}: at least {seconds:.0f} s long, more than the media policy's max_seconds={policy.max_seconds:g}"
        )


def check_whole(found: float, announced: float | None, name: str) -> None:
    """Refuse what ends long before its header says.

    Raises:
        MediaError: It does.
    """
    share, seconds = SHORTFALL
    if announced is not None and found < announced * (1 - share) - seconds:
        raise MediaError(f"{name}: truncated: its header says {announced:.1f} s, and it ends after {found:.1f} s")


def _check_riff(content: bytes | Path, size: int, name: str) -> None:
    """Refuse a WAV or AVI file shorter than its first chunk says, which FFmpeg reads as far as it goes.

    Raises:
        MediaError: It is.
    """
    if isinstance(content, bytes):
        head = content[:8]
    else:
        with content.open("rb") as file:
            head = file.read(8)
    announced = int.from_bytes(head[4:], "little") + 8
    if head[:4] == b"RIFF" and size < announced <= STREAMED:
        raise MediaError(f"{name}: truncated: its header says {announced} bytes, and it has {size}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split(":")[0].strip() or type(error).__name__
