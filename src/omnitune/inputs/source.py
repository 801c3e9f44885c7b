"""Encoded media of any kind, from wherever an input refers to them, within the media policy's limits."""

import base64
import binascii
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image

from omnitune.errors import MediaError, MediaNotFoundError, MediaRefusedError
from omnitune.inputs.download import download
from omnitune.inputs.policy import MediaPolicy

FORMS = {
    "image": "an image as PIL, path, bytes, {'bytes', 'path'}, URL, array or tensor",
    "audio": "audio as path, bytes, {'bytes', 'path'}, URL, array, {'array', 'sampling_rate'} or decoder",
    "video": "a video as path, bytes, {'bytes', 'path'}, URL, array, {'array', 'video_metadata'}, frames or decoder",
}


def source(item: Any, policy: MediaPolicy, kind: str = "image") -> bytes | Path:
    """Find an encoded item: its bytes, or the path of its file.

    Args:
        item: Path, bytes, a file opened in binary mode, `{"bytes", "path"}`, http(s) or data URL.
        policy: Limits.
        kind: What it is to be, for messages and for which limit of bytes holds.

    Raises:
        MediaError: There is none: wrong type, empty, or it cannot be reached.
    """
    if isinstance(item, bytes | bytearray | memoryview):
        return _limited(bytes(item), item, policy, kind)
    if isinstance(item, dict):
        if item.get("bytes") is not None:
            return _limited(bytes(item["bytes"]), item, policy, kind)
        if item.get("path") is not None:
            return source(item["path"], policy, kind)
    if is_open_file(item):
        return _limited(
            peeked(item, 1 + (policy.max_bytes if kind == "image" else policy.max_clip_bytes)), item, policy, kind
        )
    if isinstance(item, str) and item.startswith("data:"):
        return _limited(_from_data_url(item), item, policy, kind)
    if isinstance(item, str) and item.startswith(("http://", "https://")):
        return download(item, policy)
    if isinstance(item, str | os.PathLike):
        return _file(local_path(item), policy, kind)
    raise MediaError(f"{described(item, kind)}: expected {FORMS[kind]}, got {type(item).__name__}")


def is_tensor(item: Any) -> bool:
    """Tell whether an item is a torch tensor, without importing torch into processes that only read files."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(item, torch.Tensor)


def is_open_file(item: Any) -> bool:
    """Tell whether an item is a file opened in binary mode, or an `io.BytesIO`."""
    return isinstance(item, io.RawIOBase | io.BufferedIOBase | tempfile.SpooledTemporaryFile) and hasattr(item, "read")


def peeked(file: Any, size: int) -> bytes:
    """The first bytes of an open file, whose place stays as it was.

    Raises:
        MediaError: It cannot be read.
    """
    try:
        place = file.tell()
        size = min(size, file.seek(0, io.SEEK_END) or file.tell())  # a reader sets aside all that it is asked for
        file.seek(0)
        head: bytes = file.read(size)
        file.seek(place)
    except (OSError, ValueError) as error:  # ValueError: it was closed
        raise MediaError(f"{described(file)}: cannot be read: {error}") from error
    return head


def local_path(item: str | os.PathLike[str]) -> Path:
    """The path that `item` names, with `~` as the home folder where there is such a user."""
    return Path(os.path.expanduser(item))


def described(item: Any, kind: str = "image") -> str:
    """Name an item for a message: by its path or address where it has one."""
    if isinstance(item, np.ndarray) or is_tensor(item):
        return f"array of shape {tuple(item.shape)}"
    if isinstance(item, dict):
        if item.get("path"):
            return described(item["path"], kind)
        return next(
            (described(item[key], kind) for key in ("bytes", "array") if item.get(key) is not None and len(item[key])),
            repr(item)[:80],
        )
    if isinstance(item, bytes | bytearray | memoryview):
        return f"{kind} of {len(item)} bytes"
    if isinstance(item, Image.Image):
        return f"{type(item).__name__} of {item.width}x{item.height} pixels"
    if is_open_file(item):
        return str(getattr(item, "name", f"{kind} in {type(item).__name__}"))
    text = str(item) if isinstance(item, str | os.PathLike) else repr(item)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _file(path: Path, policy: MediaPolicy, kind: str) -> Path:
    if not policy.allow_local_files:
        raise MediaRefusedError(f"{path}: the media policy forbids local files (allow_local_files=False)")
    try:
        size = path.stat().st_size
    except PermissionError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise MediaNotFoundError(f"{path}: no such file ({error}); working folder {Path.cwd()}") from error
    if not path.is_file():
        raise MediaError(f"{path}: expected a file, got a folder or device")
    _check_size(size, str(path), policy, kind)
    return path


def _limited(content: bytes, item: Any, policy: MediaPolicy, kind: str) -> bytes:
    _check_size(len(content), described(item, kind), policy, kind)
    return content


def _check_size(size: int, name: str, policy: MediaPolicy, kind: str) -> None:
    if not size:
        raise MediaError(f"{name}: empty")
    limit = "max_bytes" if kind == "image" else "max_clip_bytes"
    if size > getattr(policy, limit):
        raise MediaRefusedError(f"{name}: {size} bytes, more than the media policy's {limit}={getattr(policy, limit)}")


def _from_data_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    try:
        content = unquote_to_bytes(body)
        return base64.b64decode(content, validate=True) if head.endswith(";base64") else content
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{described(url)}: its base64 is broken: {error}") from error
