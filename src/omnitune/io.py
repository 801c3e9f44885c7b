"""Files that this library writes and reads back: atomic writes, JSON, digests (folders: `folders`).

Every file of ours appears whole or not at all: it is written beside its place, flushed to the disk and renamed. A file
of ours that is torn all the same (a disk that failed, a copy that was cut) counts as absent, so that what it held is
made again: see `read_json_or_none`.
"""

import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from omnitune.errors import ResourceError
from omnitune.strict_json import json_text

JUST_MADE = 2.0
"""Seconds in which a new folder is taken for one whose owner is about to lock it."""

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SIGNS = (
    "No space left on device", "StorageFull", "File too large", "os error 28)", "os error 122)", "file write failed",
    "unexpected pos", "iostream error",
)  # fmt: skip
"""Parts of errors of compiled writers; the last three are torch's, which does not hand on what the system says."""


def is_full(error: BaseException) -> bool:
    """Tell a full disk from other failures: an `OSError` by its number, errors of compiled writers by their text.

    `torch.save` raises RuntimeError and `safetensors` SafetensorError where the system says "No space left on device".
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    text = str(error)
    return any(sign in text for sign in _SIGNS)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn a full disk inside the block into one sentence about `path`; other errors pass.

    Raises:
        ResourceError: The disk is full; names the path and the megabytes that are free.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ResourceError) or not is_full(error):
            raise
        at = next(folder for folder in (path, *path.parents) if folder.is_dir())
        free = shutil.disk_usage(at).free
        raise ResourceError(
            f"{path}: the disk is full ({free / 1e6:.0f} MB free); what was made before is kept: free some space and "
            "run the same command again"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    A device or a pipe is written to as it is: a file in its place would be no device (`--out /dev/null`, by root).

    The temporary file is locked while it is written, so that those of processes that were killed can be told from
    others; the first write of a process into a folder removes them.

    Raises:
        ResourceError: The disk is full, and the sentence names the path and the megabytes that are free; or a folder
            lies where the file goes, or a file where its folder goes.
    """
    if path.parent == Path("/dev") or (path.exists() and not path.is_file() and not path.is_dir()):
        with full_disk_named(path):
            yield path
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        with full_disk_named(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise in_the_way(path.parent, "file") from error
            if path.is_dir():
                raise in_the_way(path, "folder")
            _sweep(path.parent.absolute(), os.getpid())
            temporary.touch()
            with held(temporary):
                yield temporary
                flush(temporary)
                temporary.replace(path)
    finally:
        if temporary.is_file():
            temporary.unlink()


def in_the_way(path: Path, kind: str) -> ResourceError:
    """Return the error for a "file" where a folder of ours goes, or a "folder" or device where a file goes."""
    meant = "folder" if kind == "file" else "file"
    return ResourceError(f"{path}: expected a {meant} or nothing, got a {kind}; move it away and run the same again")


_WRITTEN = re.compile(r"\..+\.\d+\.\d+\.partial", re.DOTALL)


@cache
def _sweep(folder: Path, process: int) -> None:  # noqa: ARG001 - once a folder in each process
    """Remove temporary files of `writing` whose processes were killed: each could be as large as an index."""
    for left in folder.glob(".*.partial"):
        if _WRITTEN.fullmatch(left.name) and left.is_file() and not left.is_symlink() and abandoned(left):
            left.unlink(missing_ok=True)


def remove_file(path: Path) -> None:
    """Delete a file of ours, such as the marker that says of others that they are whole; nothing there is well.

    Raises:
        ResourceError: A folder lies in its place.
    """
    if path.is_dir() and not path.is_symlink():
        raise in_the_way(path, "folder")
    path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Put a file on the disk: without it a power cut after a rename can leave an empty file (ext4, xfs)."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder or file, which the system frees when the process ends, however it ends."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks, where nobody takes it for abandoned either
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def abandoned(folder: Path) -> bool:
    """Tell whether nobody holds a folder or file any more; where that cannot be told, somebody does."""
    try:
        if fcntl is None or time.time() - folder.stat().st_mtime < JUST_MADE:
            return False
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # another process has just renamed or removed it
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def printable(text: str, *, lines: bool = True) -> str:
    r"""Make text from outside safe to show: control and direction characters become escapes such as `\x1b`.

    Args:
        text: Names of files, queries, messages of other programs.
        lines: Leave line breaks and tabs as they are.

    Example:
        >>> print(printable("a\x1b[2J.pdf"))
        a\x1b[2J.pdf
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if lines and found[0] in "\n\t" else ascii(found[0])[1:-1], text)


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, which a terminal obeys; marks that turn the direction of text, so that it reads as another one;
and lone surrogates, which stand for bytes of a file name that are no text and cannot be written."""


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON; the file appears whole or not at all.

    Raises:
        InputError: A number is not finite.
        ResourceError: The disk is full.
    """
    with writing(Path(path)) as temporary:
        temporary.write_text(json_text(value, Path(path).name, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read the value in a JSON file; a damaged file is an error (see `read_json_or_none`)."""
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device read for ever
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_or_none(path: str | Path) -> Any:
    """Read a JSON file of our own; None when it is missing, cut or not JSON, so that its owner makes it again."""
    try:
        return read_json(path)
    except (OSError, ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        return None


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line; the file appears when the last row is written.

    Raises:
        InputError: A number is not finite.
        ResourceError: The disk is full.
    """
    with writing(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json_text(row, Path(path).name) + "\n")


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a JSON Lines file, one at a time."""
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def content_hash(path: Path) -> str:
    """Hash a file's content: 32 hex digits. A process reads it once, until it changes.

    The time of the last change cannot be set back, as that of the last writing can.
    """
    facts = path.stat()
    return _content_hash(path.absolute(), facts.st_ino, facts.st_size, facts.st_ctime_ns)


@cache
def _content_hash(path: Path, *_: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def digest(value: Any) -> str:
    """Hash JSON values: 16 hex digits, equal for equal values whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
