"""Folders that this library writes: checked before long work, locked by one process, replaced in one step."""

import atexit
import ctypes
import glob
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath

from omnitune.errors import DatasetError, ResourceError
from omnitune.io import abandoned, fcntl, flush, full_disk_named, held, in_the_way

logger = logging.getLogger(__name__)


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


def writable_or_temporary(folder: Path) -> Path:
    """Make a folder of a cache; where that cannot be, warn and give one that lasts as long as this process.

    A cache that is read-only, full or not a folder costs time, never a result.
    """
    try:
        return writable_folder(folder)
    except ResourceError as error:
        logger.warning("%s; what would be kept there is made for this run alone", error)
        return _temporary() / folder.name


@cache
def _temporary() -> Path:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(scratch("omnitune-cache-"))


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Yield a folder for temporary files; it goes at the end, and those that killed processes of this user left go now.

    Args:
        prefix: Of its name, which tells the folders of one use from all others.

    Raises:
        ResourceError: There is no folder for temporary files.
    """
    try:
        home = Path(tempfile.gettempdir())
        for left in home.glob(f"{glob.escape(prefix)}*") if fcntl is not None else ():
            random = re.fullmatch(r"[a-z0-9_]{8}", left.name[len(prefix) :])
            with suppress(OSError):
                if random and left.is_dir() and left.lstat().st_uid == os.getuid() and abandoned(left):
                    shutil.rmtree(left, ignore_errors=True)
        made = tempfile.TemporaryDirectory(prefix=prefix, dir=home, ignore_cleanup_errors=True)
    except OSError as error:
        raise ResourceError(
            f"TMPDIR: expected a folder for temporary files, got: {error.strerror}; set TMPDIR to one"
        ) from error
    with made as name, held(Path(name)):
        yield Path(name)


def inside(folder: Path, name: str) -> Path:
    """Return the file `name` of a folder, where the name comes from data that someone else may have written.

    Args:
        folder: The folder.
        name: Path inside it, with forward slashes.

    Raises:
        DatasetError: The name, or a link in it, leads out of the folder.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    root = os.path.join(os.path.realpath(folder), "")
    # A drive ("C:") is refused everywhere, because the folder may be read on another system than it was written on.
    # Where "\\" is a character of names as any other, the name as it stands may be a link, and the other spelling none.
    read = (folder / Path(*parts), folder / name)
    if not parts or ":" in parts[0] or not all(os.path.realpath(one).startswith(root) for one in read):
        raise DatasetError(f"{folder}: expected names of files inside it, got {name!r}, which leads out of it")
    return folder / name


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

    place = writable_folder(folder) / ".lock"
    if place.exists() and not place.is_file():
        raise in_the_way(place, "folder" if place.is_dir() else "device or pipe")
    lock, handle = FileLock(place, timeout=0), -1
    try:
        lock.acquire()
        if fcntl is not None:  # the folder too, because people delete a file named .lock to get on
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (Timeout, BlockingIOError):
        lock.release()
        if handle >= 0:
            os.close(handle)
        raise ResourceError(
            f"{folder}: another process is {task} here; wait until it has ended, or name another folder"
        ) from None
    except OSError as error:
        if not lock.is_locked:
            reason = error.strerror or error
            raise ResourceError(
                f"{place}: expected a file that can be locked, got: {reason}; name another folder"
            ) from error
    try:
        yield
    finally:
        if handle >= 0:
            os.close(handle)
        lock.release()


def discard(folder: Path, names: Iterable[str]) -> None:
    """Delete what this library wrote into a folder, and the folder itself once it is empty.

    The one way in which folders are deleted: what others keep there has other names, and stays.

    Args:
        folder: The folder.
        names: Files and folders in it that are ours.
    """
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds more, or is gone
        folder.rmdir()


@contextmanager
def replacing_folder(
    folder: Path, *, gone: Callable[[Path, set[Path]], bool] = lambda _path, _new: False
) -> Iterator[Path]:
    """Yield a new folder that takes the place of `folder`, in one step, when the block ends well.

    The new folder lies beside the old one. Files of the old one that the new one lacks are linked into it, so that what
    else people and trainers keep there stays; then the two are swapped. A process that is killed leaves the old folder
    whole and a `.<name>.<random>.partial` beside it, which the next call removes; that of a process which still writes
    is left alone. Where folders cannot be swapped (a mount, the working directory, a parent that is read-only), the new
    files are moved into the old folder one by one, which a kill can cut short.

    Args:
        folder: The folder; made when missing.
        gone: Says of an old file, by its path in the folder and those of all new files, that it must not stay.

    Raises:
        ResourceError: The disk is full; `folder` is as it was.
    """
    folder = folder.resolve()
    here = Path.cwd()
    busy = folder == here or folder in here.parents or os.path.ismount(folder)
    parent = next(place for place in folder.parents if place.is_dir())
    swaps = not busy and os.access(parent, os.W_OK)
    home = folder.parent if swaps else folder
    with full_disk_named(folder):
        home.mkdir(parents=True, exist_ok=True)
        for place in {home, folder} if folder.is_dir() else {home}:
            for partial in place.glob(f".{glob.escape(folder.name)}.*.partial"):
                if _LEFT.fullmatch(partial.name[len(folder.name) + 2 :]) and abandoned(partial):
                    shutil.rmtree(partial, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=home))
    try:
        with full_disk_named(folder), held(fresh):
            yield fresh
            new = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
            for name in new:
                flush(fresh / name)
            if swaps:
                _swap_in(fresh, folder, new, gone)
            else:
                _move_in(fresh, folder, new, gone)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if not swaps and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


_LEFT = re.compile(r"[a-z0-9_]{8}\.partial(\.old\.partial)?")
"""How the names of our partial folders end (`mkdtemp`, `_exchange`): a `.model.my-notes.partial` of others stays."""


def _swap_in(fresh: Path, folder: Path, new: set[Path], gone: Callable[[Path, set[Path]], bool]) -> None:
    if not folder.exists():
        umask = os.umask(0)
        os.umask(umask)
        fresh.chmod(0o777 & ~umask)
        fresh.rename(folder)
        return
    shutil.copymode(folder, fresh)
    _link_others(folder, fresh, new, gone)
    _exchange(fresh, folder)
    _link_others(fresh, folder, new, gone)  # what another process wrote there since: a rank's state, a line of a log


def _link_others(old: Path, fresh: Path, new: set[Path], gone: Callable[[Path, set[Path]], bool]) -> None:
    for path in old.rglob("*"):
        name = path.relative_to(old)
        target = fresh / name
        if path.is_dir() and not path.is_symlink():
            if name in new:
                raise in_the_way(path, "folder")
            target.mkdir(parents=True, exist_ok=True)
        elif name not in new and not os.path.lexists(target) and not gone(name, new):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, target, follow_symlinks=False)
            except FileNotFoundError:  # a temporary file that its owner has renamed
                continue
            except OSError:  # a file system without links
                shutil.copy2(path, target, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders: in one step where the system can, else in two with a moment without `other` between them."""
    libc = ctypes.CDLL(None, use_errno=True)
    at_here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    if hasattr(libc, "renameat2") and not libc.renameat2(
        at_here, os.fsencode(one), at_here, os.fsencode(other), exchange
    ):
        return
    aside = one.with_name(one.name + ".old.partial")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def _move_in(fresh: Path, folder: Path, new: set[Path], gone: Callable[[Path, set[Path]], bool]) -> None:
    old = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    old = {name for name in old if name.parts[0] != fresh.name}
    for name in new:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (fresh / name).replace(folder / name)
    for name in old - new:
        if gone(name, new):
            (folder / name).unlink()
