"""Named tensors kept by key: in memory up to a limit, then in files, which outlive the process.

What came first stays: epochs read everything in turn, and of what is read in turn the least recent is wanted next.
Several processes may share a folder: a file appears whole or not at all, and one that cannot be read is written anew.
"""

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from omnitune import io
from omnitune.errors import ResourceError

logger = logging.getLogger(__name__)

Entry: TypeAlias = Mapping[str, Tensor]

SUFFIX = ".safetensors"

LOOKS = 20
"""Times that a folder is counted while one process fills it; several exceed its limit by that part at most."""


class Store:
    """Tensors by key.

    Args:
        memory: Bytes to hold in memory.
        folder: Where the rest goes; None keeps nothing else.
        disk: Bytes that files in `folder` may take, those of earlier runs included; the least recently used of them
            give way when the store is opened.

    Attributes:
        in_memory: Bytes held in memory.
        on_disk: Bytes in files.
    """

    def __init__(self, memory: int, folder: Path | None = None, disk: int = 0) -> None:
        self.memory = memory
        self.folder = folder
        self.disk = disk
        self.in_memory = 0
        self.on_disk = 0 if folder is None else _make_room(folder, disk)
        self._uncounted = 0
        self._given_up = False
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """Return the tensors that were put under `key`, or None."""
        found = self._entries.get(key)
        return found if found is not None or self.folder is None else self._read(key, self.folder)

    def put(self, key: str, entry: Entry) -> bool:
        """Keep tensors, on the host and without a graph.

        Returns:
            Whether there was room. Where the folder is full or read-only, files are given up with one warning: what is
            kept here can be made again, and a run must not end for want of it.
        """
        size = sum(tensor.nbytes for tensor in entry.values())
        with self._lock:
            if key in self._entries:
                return True
            fits = self.in_memory + size <= self.memory
            if fits:
                self._entries[key] = entry
                self.in_memory += size
            if self.folder is None or self._given_up:
                return fits
            path = self._path(key, self.folder)
            if path.exists():
                return True
            self._count_others(size)
            if self.on_disk + size > self.disk:
                return fits
            self.on_disk += size
        try:
            with io.writing(path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in entry.items()}, temporary)
        except (OSError, ResourceError, SafetensorError) as error:
            self._given_up = True
            logger.warning("%s: nothing more is kept there in this run: %s", self.folder, error)
            return fits
        return True

    def _count_others(self, size: int) -> None:
        """Look at the folder again after every `1 / LOOKS` of the limit: other processes write there, too."""
        self._uncounted += size
        if self.folder is not None and self._uncounted * LOOKS > self.disk:
            self.on_disk = sum(size for _, size, _ in _files(self.folder))
            self._uncounted = 0

    def _read(self, key: str, folder: Path) -> Entry | None:
        path = self._path(key, folder)
        try:
            with suppress(OSError):  # a read-only folder keeps no times of use
                path.touch() if path.exists() else None
            # Made outside inference mode: what is read for an evaluation may serve training.
            with torch.inference_mode(False):
                entry: Entry = load_file(path)
        except (SafetensorError, EOFError):
            logger.warning("%s cannot be read and is made anew.", path)
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        except OSError:
            return None
        size = sum(tensor.nbytes for tensor in entry.values())
        with self._lock:
            if key not in self._entries and self.in_memory + size <= self.memory:
                self._entries[key] = entry
                self.in_memory += size
        return entry

    @staticmethod
    def _path(key: str, folder: Path) -> Path:
        return folder / key[:2] / (key + SUFFIX)


def _files(folder: Path) -> list[tuple[float, int, Path]]:
    """Time of last use, size and path of every file."""
    facts = []
    for path in folder.glob("*/*" + SUFFIX):
        if path.stem[:2] != path.parent.name:
            continue  # somebody else's
        try:
            stat = path.stat()
        except OSError:  # another process makes room, too
            continue
        facts.append((stat.st_mtime, stat.st_size, path))
    return facts


def _make_room(folder: Path, limit: int) -> int:
    """Delete the least recently used files until the rest take at most `limit` bytes; how many bytes are left."""
    facts = _files(folder)
    total = sum(size for _, size, _ in facts)
    for _, size, path in sorted(facts):
        if total <= limit:
            break
        with suppress(OSError):
            path.unlink(missing_ok=True)
            total -= size
    return total
