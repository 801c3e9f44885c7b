"""A `.npy` file that is filled row by row in the corpus' order, each row noted with the key of what it was made from.

    <name>.npy     rows `(rows, dim)`
    <name>.keys    16 bytes a row: digest of its item and of all else that it depends on; zeros where it is not done

A row is done when the file holds its key. Keys are zeroed before their rows change and written after the rows are on
the disk, so a stop at any point, or another run's leavings, cost encoding and never give a wrong row. Both files are
reserved when they are made and written with plain writes, never through a memory map: on a full disk that is an error
with a sentence, where a map ends the process with a bus error.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from omnitune import io
from omnitune.retrieval.arrays import Array
from omnitune.retrieval.store import Keys

KEY_BYTES = 16


def row_keys(made_from: str, contents: Keys) -> NDArray[np.uint8]:
    """Digest what each row depends on `(rows, 16)`: `made_from` (weights, role, options) and its item's fingerprint."""
    held = made_from.encode()
    made = b"".join(hashlib.blake2b(held + content, digest_size=KEY_BYTES).digest() for content in contents.tolist())
    return np.frombuffer(made, dtype=np.uint8).reshape(-1, KEY_BYTES)


class OrderedRows:
    """Rows of a corpus in one file, in its order.

    Args:
        path: The `.npy` file; the keys lie beside it.
        rows: Rows of the corpus. Files of another number of rows are made anew.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.keys, self.rows = path, path.with_suffix(".keys"), rows

    def missing(self, start: int, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Find the rows from `start` on that are not done under these keys `(missing,)`, counted from `start`."""
        if self._layout() is None:
            return np.arange(len(keys))
        held = np.fromfile(self.keys, np.uint8, len(keys) * KEY_BYTES, offset=start * KEY_BYTES)
        return np.flatnonzero((held.reshape(-1, KEY_BYTES) != keys).any(axis=1))

    def write(self, places: NDArray[np.int64], values: Array, keys: NDArray[np.uint8]) -> None:
        """Write rows `(places, dim)` at their places, which are consecutive, and then their keys.

        Raises:
            ResourceError: The disk is full.
        """
        with io.full_disk_named(self.path):
            layout = self._layout()
            if layout is None or layout[1:] != (values.dtype, values.shape[1]):
                # Both files at full size, all rows not done; the keys go first, so that none outlives its row.
                self.path.parent.mkdir(parents=True, exist_ok=True)
                io.remove_file(self.keys)
                with self.path.open("wb") as file:
                    shape = (self.rows, values.shape[1])
                    head = {"descr": npy.dtype_to_descr(values.dtype), "fortran_order": False, "shape": shape}
                    npy.write_array_header_1_0(file, head)
                    file.flush()
                    _reserve(file.fileno(), file.tell(), self.rows * values.shape[1] * values.dtype.itemsize)
                with self.keys.open("wb") as file:
                    _reserve(file.fileno(), 0, self.rows * KEY_BYTES)
                layout = self._layout()
            assert layout is not None
            header, width = layout[0], values.shape[1] * values.dtype.itemsize
            first = int(places[0])
            self._put(self.keys, first * KEY_BYTES, np.zeros_like(keys))
            self._put(self.path, header + first * width, values)
            self._put(self.keys, first * KEY_BYTES, keys)

    def _layout(self) -> tuple[int, np.dtype, int] | None:
        """Bytes of the header, number format and width; None when a file is missing, cut or of other rows."""
        try:
            with self.path.open("rb") as file:
                npy.read_magic(file)
                shape, _, dtype = npy.read_array_header_1_0(file)
                header = file.tell()
        except (OSError, ValueError):
            return None
        whole = header + int(np.prod(shape)) * dtype.itemsize
        if len(shape) != 2 or shape[0] != self.rows or self._size(self.path) != whole:
            return None
        if self._size(self.keys) != self.rows * KEY_BYTES:
            return None
        return header, dtype, int(shape[1])

    @staticmethod
    def _size(path: Path) -> int:
        return path.stat().st_size if path.is_file() else -1

    @staticmethod
    def _put(path: Path, place: int, values: Array) -> None:
        with path.open("r+b") as file:
            file.seek(place)
            file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())


def runs(places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut sorted numbers into runs of consecutive ones."""
    if len(places):
        yield from np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)


def _reserve(file: int, start: int, size: int) -> None:
    """Take the space now, so that a full disk is an error here; where the system cannot, the file is only as long."""
    os.ftruncate(file, start + size)
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, start, size)
