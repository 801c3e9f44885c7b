"""Files that this library writes and reads back: atomic writes, JSON, digests, one lock a folder.

Every file of ours appears whole or not at all: it is written beside its place, flushed to the disk and renamed. A file
of ours that is torn all the same (a disk that failed, a copy that was cut) counts as absent, so that what it held is
made again: see `read_json_or_none`.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnitune.errors import ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Tell a full disk from other failures: an `OSError` by its number, errors of compiled writers by their text.

    `torch.save` raises RuntimeError and `safetensors` SafetensorError where the system says "No space left on device".
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    text = str(error)
    return any(sign in text for sign in ("No space left on device", "StorageFull", "file write failed", "os error 28"))


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

    Raises:
        ResourceError: The disk is full; names the path and the megabytes that are free.

    Example:
        >>> with writing(folder / "page.json") as temporary:
        ...     temporary.write_text("{}")
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        with full_disk_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            temporary.replace(path)
    finally:
        if temporary.is_file():
            temporary.unlink()


def _flush(path: Path) -> None:
    # Without it a power cut after the rename can leave an empty file under the final name (ext4, xfs).
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def writable_folder(folder: Path) -> Path:
    """Make a folder and check that files can be written to it, before long work rather than after it.

    Raises:
        ResourceError: It cannot be made, or nothing can be written to it; says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ResourceError(
            f"{folder}: expected a folder that can be written to, got: {error.strerror or error}"
        ) from error


@contextmanager
def locked(folder: Path, *, task: str) -> Iterator[None]:
    """Hold a folder for one process: a second one is told at once, instead of mixing its files with the first one's.

    The lock is the operating system's, so it ends with the process, however that ends.

    Args:
        folder: The folder; made when missing. The lock is the file `.lock` in it.
        task: What holds it, for the sentence that the second process gets, such as "finetuning".

    Raises:
        ResourceError: Another process holds the folder, or it cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(writable_folder(folder) / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ResourceError(
            f"{folder}: another process is {task} here; wait until it has ended, or name another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON; the file appears whole or not at all.

    Raises:
        ResourceError: The disk is full.
    """
    with writing(Path(path)) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read the value in a JSON file; a damaged file is an error (see `read_json_or_none`)."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_json_or_none(path: str | Path) -> Any:
    """Read a JSON file of our own; None when it is missing, cut or not JSON, so that its owner makes it again."""
    try:
        return read_json(path)
    except (OSError, ValueError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        return None


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line; the file appears when the last row is written.

    Raises:
        ResourceError: The disk is full.
    """
    with writing(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a JSON Lines file, one at a time."""
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def digest(value: Any) -> str:
    """Hash JSON values: 16 hex digits, equal for equal values whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def listing(folder: Path) -> list[list[Any]]:
    """List name, bytes and time of change of every file under a folder, or of the one file: changes when they do."""
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    return [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
