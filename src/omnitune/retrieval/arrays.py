"""Named arrays in one file that is mapped, not read, when it is opened.

The layout is that of safetensors (eight bytes with the length of a JSON header, the header, the arrays one after
another), so any safetensors reader opens the file, and nothing in it can run code. Written here rather than by the
safetensors package, because its NumPy reader copies, and because arrays larger than memory are written piece by piece.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from omnitune import io

Array: TypeAlias = NDArray[Any]

_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_TYPES = {name: np.dtype(kind) for kind, name in _NAMES.items()}
_ALIGN = 64


def write_arrays(path: Path, arrays: Mapping[str, Array], facts: Mapping[str, str] | None = None) -> None:
    """Write arrays into one file, which appears whole or not at all.

    Args:
        path: The file.
        arrays: Name to array; numbers or bool, any shape.
        facts: Strings to keep beside them.

    Raises:
        ResourceError: The disk is full.

    Example:
        >>> write_arrays(Path("rows.safetensors"), {"values": np.zeros((3, 8), np.float32)}, {"made_by": "a test"})
    """
    # The widest numbers first: each array then starts at a multiple of its own number's size, as readers expect.
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": dict(facts)} if facts else {}
    end = 0
    for name in order:
        array = arrays[name]
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    with io.writing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            # Not `tofile`: on a full disk it raises an OSError that says neither which file nor why.
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def read_arrays(path: Path, *, private: bool = False) -> tuple[dict[str, Array], dict[str, str]] | None:
    """Map the arrays of a file and read its facts; None when the file is missing, cut or foreign.

    Args:
        path: The file.
        private: Map so that the arrays count as writable, as torch wants them; writes never reach the file.

    Example:
        >>> arrays, facts = read_arrays(Path("rows.safetensors"))
        >>> arrays["values"].shape
        (3, 8)
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                return None
            header = json.loads(file.read(length))
            facts = header.pop("__metadata__", {})
            places = {
                name: (_TYPES[one["dtype"]], tuple(one["shape"]), *one["data_offsets"]) for name, one in header.items()
            }
            if 8 + length + max((stop for *_, stop in places.values()), default=0) != size:
                return None
            raw = (
                np.memmap(file, dtype=np.uint8, mode="c" if private else "r")
                if size > 8 + length
                else np.zeros(0, np.uint8)
            )
        return {
            name: raw[8 + length + start : 8 + length + stop].view(kind).reshape(shape)
            for name, (kind, shape, start, stop) in places.items()
        }, facts
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def take_ranges(starts: Array, lengths: Array) -> NDArray[np.int64]:
    """Numbers of the ranges `[start, start + length)`, one range after another `(sum of lengths,)`.

    Example:
        >>> take_ranges(np.array([5, 0]), np.array([2, 3]))
        array([5, 6, 0, 1, 2])
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(np.asarray(starts, dtype=np.int64) - (ends - lengths), lengths) + np.arange(total)


def offsets_of(lengths: Iterable[int]) -> NDArray[np.int64]:
    """Offsets of consecutive runs: the start of each, and the end of the last `(runs + 1,)`."""
    counted = np.fromiter(lengths, dtype=np.int64)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counted)])
