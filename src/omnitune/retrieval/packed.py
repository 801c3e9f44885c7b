"""Rows of embeddings in any layout: one vector a row, many vectors a row, or sparse; and MaxSim on them in blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.ops.maxsim import EMPTY_DOCUMENT, streamed_maxima
from omnitune.retrieval.arrays import Array, offsets_of, take_ranges
from omnitune.types import Embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Embeddings of rows without padding.

    Attributes:
        values: Dense `(rows, dim)`; ragged `(sum of tokens, dim)`; sparse (CSR) `(nonzeros,)`.
        offsets: Where each row of a ragged or sparse layout starts in `values`, and the end `(rows + 1,)`, int64.
        indices: Column of every value of a sparse layout `(nonzeros,)`, int32.
        dim: Length of a vector.

    Example:
        >>> pages = Packed.of([np.zeros((12, 128)), np.zeros((700, 128))])
        >>> len(pages), pages.values.shape, pages[1].shape
        (2, (712, 128), (700, 128))
    """

    values: Array
    offsets: NDArray[np.int64] | None = None
    indices: Array | None = None
    dim: int

    @classmethod
    def of(cls, rows: Any, dtype: Any = None) -> "Packed":
        """Pack what an encoder returned.

        Args:
            rows: An array or tensor `(rows, dim)`; a list of arrays or tensors `(tokens, dim)`; a sparse tensor
                `(rows, dim)` of torch, COO or CSR, or a list of its rows; a sparse matrix of SciPy; or `Embeddings` of
                any layout.
            dtype: Number format to keep; None keeps that of `rows`.

        Raises:
            ShapeError: `rows` is none of these.
        """
        if isinstance(rows, Packed):
            return rows.astype(dtype)
        if isinstance(rows, Embeddings):
            packed = rows.pack().detach()
            made = cls(
                values=_array(packed.values),
                offsets=None if packed.offsets is None else _array(packed.offsets),
                indices=None if packed.indices is None else _array(packed.indices).astype(np.int32),
                dim=int(packed.dim or packed.values.shape[-1]),
            )
            return made.astype(dtype)
        if isinstance(rows, Sequence) and len(rows) and getattr(rows[0], "is_sparse", False):
            rows = torch.stack(list(rows))
        if hasattr(rows, "tocsr"):
            held = rows.tocsr()
            held.sum_duplicates()
            made = cls(
                values=held.data,
                offsets=held.indptr.astype(np.int64),
                indices=held.indices.astype(np.int32),
                dim=int(held.shape[1]),
            )
            return made.astype(dtype)
        if getattr(rows, "is_sparse", False) or str(getattr(rows, "layout", "")) == "torch.sparse_csr":
            coo = rows.detach().cpu().to_sparse_coo().coalesce()
            row, column = coo.indices()
            made = cls(
                values=coo.values().float().numpy(),
                offsets=offsets_of(row.bincount(minlength=coo.shape[0]).tolist()),
                indices=column.numpy().astype(np.int32),
                dim=int(coo.shape[1]),
            )
            return made.astype(dtype)
        if isinstance(rows, Sequence) and len(rows) and getattr(rows[0], "ndim", 1) == 2:
            parts = [_array(row) for row in rows]
            values = np.concatenate(parts)
            return cls(values=values, offsets=offsets_of(map(len, parts)), dim=values.shape[1]).astype(dtype)
        if isinstance(rows, Sequence) and len(rows) and hasattr(rows[0], "ndim"):
            rows = np.stack([_array(row) for row in rows])
        values = _array(rows)
        if values.ndim != 2:
            raise ShapeError(
                "rows: expected embeddings (rows, dim), a list of token vectors (tokens, dim), or a sparse tensor, got "
                f"shape {values.shape}"
            )
        return cls(values=values, dim=values.shape[1]).astype(dtype)

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, row: int) -> Array:
        """The vector `(dim,)` or the vectors `(tokens, dim)` of one row; of a sparse row, its values."""
        if self.offsets is None:
            return np.asarray(self.values[row])
        return np.asarray(self.values[self.offsets[row] : self.offsets[row + 1]])

    def astype(self, dtype: Any) -> "Packed":
        """The same rows in another number format; None changes nothing."""
        if dtype is None or self.values.dtype == dtype:
            return self
        return Packed(values=self.values.astype(dtype), offsets=self.offsets, indices=self.indices, dim=self.dim)

    def take(self, rows: NDArray[np.int64]) -> "Packed":
        """Chosen rows, in the order asked for."""
        if self.offsets is None:
            return Packed(values=np.asarray(self.values[rows]), dim=self.dim)
        lengths = np.diff(self.offsets)[rows]
        places = take_ranges(self.offsets[:-1][rows], lengths)
        indices = None if self.indices is None else np.asarray(self.indices[places])
        return Packed(
            values=np.asarray(self.values[places]), offsets=offsets_of(lengths), indices=indices, dim=self.dim
        )

    @staticmethod
    def cat(parts: Sequence["Packed"]) -> "Packed":
        """Rows of all parts, in order; all have the same layout."""
        first = parts[0]
        if len(parts) == 1:
            return first
        values = np.concatenate([part.values for part in parts])
        if first.offsets is None:
            return Packed(values=values, dim=first.dim)
        lengths = np.concatenate([np.diff(part.offsets) for part in parts if part.offsets is not None])
        indices = None if first.indices is None else np.concatenate([p.indices for p in parts if p.indices is not None])
        return Packed(values=values, offsets=offsets_of(lengths), indices=indices, dim=first.dim)

    def csr(self) -> Embeddings:
        """Sparse rows as `Embeddings`; they share memory.

        Raises:
            ShapeError: The layout is another.
        """
        if self.indices is None or self.offsets is None:
            raise ShapeError(f"rows: expected sparse rows, got {'dense' if self.offsets is None else 'ragged'} ones")
        values, offsets, indices = map(torch.from_numpy, (self.values, self.offsets, self.indices.astype(np.int64)))
        return Embeddings(values, None, offsets, indices, self.dim)

    def arrays(self) -> dict[str, Array]:
        """The arrays by name, as they are stored."""
        named = {"values": self.values, "offsets": self.offsets, "indices": self.indices}
        return {name: array for name, array in named.items() if array is not None}

    def finite(self, name: str = "rows") -> "Packed":
        """These rows, all of whose values are numbers.

        Args:
            name: What they are, for the error.

        Raises:
            InputError: A row holds NaN or infinity; names it.
        """
        if (wrong := self.first_not_finite()) is not None:
            raise InputError(f"{name}: expected finite numbers, got NaN or infinity in row {wrong}")
        return self

    def first_not_finite(self) -> int | None:
        """Number of the first row that holds NaN or infinity, or None."""
        if self.values.dtype.kind != "f" or not self.values.size:
            return None
        flat = self.values.reshape(len(self.values), -1)
        # A sum is finite only when all it adds are, and needs no matrix of booleans.
        with np.errstate(all="ignore"):
            if np.isfinite(flat.sum(dtype=np.float64)):
                return None
        wrong = np.flatnonzero(~np.isfinite(flat).all(axis=1))
        if not len(wrong):
            return None
        place = int(wrong[0])
        return place if self.offsets is None else int(np.searchsorted(self.offsets, place, side="right")) - 1


def _array(rows: Any) -> Array:
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu()
        rows = rows.float().numpy() if str(rows.dtype) == "torch.bfloat16" else rows.numpy()
    return np.asarray(rows)


def grouped(rows: Packed, counts: Sequence[int]) -> Packed:
    """Windows' vectors as documents': those of a document's windows, one after another.

    Sparse windows become one row a document, of the largest weight of each term: the maximum over tokens that SPLADE
    takes, over all windows.

    Args:
        rows: Vectors of the windows: dense `(windows, dim)`, ragged, or sparse.
        counts: Windows of every document.
    """
    ends = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)
    if rows.indices is not None:
        assert rows.offsets is not None
        document = np.repeat(np.repeat(np.arange(len(counts)), counts), np.diff(rows.offsets))
        # Keys sort by document, then by term; equal ones are the same term in several windows.
        keys, place = np.unique(document * np.int64(rows.dim) + rows.indices, return_inverse=True)
        largest = np.full(len(keys), -np.inf, dtype=rows.values.dtype)
        np.maximum.at(largest, place, rows.values)
        offsets = np.searchsorted(keys, np.arange(len(counts) + 1) * np.int64(rows.dim)).astype(np.int64)
        return Packed(values=largest, offsets=offsets, indices=(keys % rows.dim).astype(np.int32), dim=rows.dim)
    offsets = ends if rows.offsets is None else rows.offsets[ends]
    return Packed(values=rows.values, offsets=offsets, dim=rows.dim)


def maxsim_blocks(
    queries: Tensor,
    query_offsets: NDArray[np.int64],
    decode: Callable[[int, int], Tensor],
    offsets: NDArray[np.int64],
    scales: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Sum over a query's vectors of the largest product with a document's vectors.

    Args:
        queries: Vectors of all queries, one after another `(sum of query vectors, dim)`, float32.
        query_offsets: Where each query starts, and the end `(queries + 1,)`.
        decode: Vectors of the documents from number `first` to `last`, one after another `(vectors, dim)`, float32.
        offsets: Where each document starts, and the end `(documents + 1,)`.
        scales: See `streamed_maxima`.

    Returns:
        Scores `(queries, documents)`; -1e9 for documents without vectors, else 0 for queries without any.

    Example:
        >>> q, d = torch.eye(3), torch.eye(3)
        >>> at = np.array([0, 1, 3])
        >>> maxsim_blocks(q, np.array([0, 2, 3]), lambda first, last: d[at[first] : at[last]], at)
        array([[1., 1.],
               [0., 1.]], dtype=float32)
    """
    made = np.full((len(query_offsets) - 1, len(offsets) - 1), EMPTY_DOCUMENT, dtype=np.float32)
    made[:, np.diff(offsets) > 0] = 0.0
    asked = np.flatnonzero(np.diff(query_offsets))  # `reduceat` would give a query without vectors the next one's first
    if len(asked):
        for filled, best in streamed_maxima(queries, decode, offsets, scales):
            made[np.ix_(asked, filled)] = np.add.reduceat(best, query_offsets[asked], axis=0)
    return made


def pool_tokens(vectors: NDArray[np.float32], offsets: NDArray[np.int64], most: int) -> tuple[Tensor, Tensor]:
    """Means of consecutive vectors, at most `most` a document, scaled to unit length: a document in short.

    Args:
        vectors: `(sum of vectors, dim)`.
        offsets: Where each document starts, and the end.
        most: Vectors to keep of each.

    Returns:
        The means `(sum of kept, dim)` float32, and where each document starts among them, int64.
    """
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, most)
    ends = np.cumsum(kept)
    number = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - kept, kept)
    starts = np.repeat(offsets[:-1], kept) + number * np.repeat(lengths, kept) // np.repeat(np.maximum(kept, 1), kept)
    pooled = np.zeros((len(starts), vectors.shape[1]), dtype=np.float32)
    if len(starts):
        # Documents follow one another without gaps, so the next start is the end.
        pooled = np.add.reduceat(np.asarray(vectors, dtype=np.float32), starts, axis=0)
    made = torch.nn.functional.normalize(torch.from_numpy(pooled), dim=1)
    return made, torch.from_numpy(np.concatenate([[0], ends]).astype(np.int64))
