"""Sparse rows over a corpus: an inverted index, exact, of which a query touches its own terms' postings alone.

A segment keeps, for every term (a column that some row uses), the rows that use it and their weights. A row number
takes two bytes in segments of up to 65,536 rows, four in others; a weight takes four, two or one.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from omnitune.errors import InputError, ShapeError
from omnitune.retrieval.arrays import Array
from omnitune.retrieval.base import MISSING, SegmentedIndex
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.segments import Part, Segments

Weights: TypeAlias = Literal["float32", "float16", "uint8"]

POSTINGS_AT_ONCE = 1 << 15
"""Postings of a query that are added up at a time. Larger buffers are given back to the system and taken anew, and
their page faults cost more than the additions: 7.9 instead of 1.7 ms over 500,000 postings."""

_LARGEST = float(np.finfo(np.float16).max)


class SparseIndex(SegmentedIndex):
    """Sparse rows of documents, compared by dot product.

    Scores are summed in float64 and rounded once, so they depend neither on the order of terms nor on how the corpus is
    cut into segments: with float32 weights they are those of the dense product.

    Args:
        segments, prefix, made_by: As in `SegmentedIndex`.
        dtype: Number format of the weights on disk: "float32", "float16", or "uint8", which keeps 256 steps between
            the least and the greatest weight of each term.
        dim: Columns of a row; None takes those of the first rows.

    Example:
        >>> index = SparseIndex()
        >>> index.add([{"id": "a"}, {"id": "b"}], model.encode_document(["greasing the bearing", "changing the oil"]))
        >>> [hit.entry["id"] for hit in index.search(model.encode_query(["how is the bearing greased"]), top_k=1)[0]]
        ['a']
    """

    kind = "sparse"

    def __init__(
        self,
        segments: Segments | None = None,
        *,
        prefix: str = "",
        made_by: Mapping[str, str] | None = None,
        dtype: Weights = "float32",
        dim: int | None = None,
    ) -> None:
        super().__init__(segments, prefix=prefix, made_by=made_by, dtype=dtype, dim=dim)
        if dtype not in get_args(Weights):
            raise InputError(f"dtype: expected one of {', '.join(get_args(Weights))}, got {dtype!r}")

    def rows_in(self, rows: Any) -> int:
        """Count rows."""
        return int(rows.shape[0]) if hasattr(rows, "shape") else len(rows)  # a SciPy matrix has no length

    def pack(self, rows: Any) -> dict[str, Array]:
        """Make the postings of rows.

        Args:
            rows: A sparse tensor of torch `(documents, dim)`, a SciPy matrix, `Embeddings`, `Packed`, or a dense array.

        Raises:
            ShapeError: They are token vectors, or of another dimension than the index's.
            InputError: A weight is no number, or too large for float16.
        """
        packed = sparse_rows(rows)
        if self.settings["dim"] not in (None, packed.dim):
            raise ShapeError(
                f"rows: expected {self.settings['dim']} dimensions as in the index, got {packed.dim}; add what the "
                "model that made the index encoded"
            )
        packed.finite()
        assert packed.offsets is not None and packed.indices is not None
        self.settings["dim"] = packed.dim
        # Sorting 16-bit numbers is a radix sort in NumPy: a third of the time, and most vocabularies fit.
        columns = packed.indices.astype(np.uint16) if packed.dim <= 1 << 16 else packed.indices
        order = np.argsort(columns, kind="stable")
        terms, starts = np.unique(packed.indices[order], return_index=True)
        count = len(packed)
        documents = np.repeat(
            np.arange(count, dtype=np.uint16 if count <= 1 << 16 else np.int32), np.diff(packed.offsets)
        )
        arrays: dict[str, Array] = {
            "terms": terms.astype(np.int32),
            "terms_starts": np.append(starts, len(order)).astype(np.int64),
            "rows": documents[order],
            **self._encoded(packed.values[order], starts),
        }
        return {self.prefix + name: array for name, array in arrays.items()}

    def _encoded(self, values: Array, starts: NDArray[np.int64]) -> dict[str, Array]:
        """Write weights of all postings in the index's number format; each term's begin at one of `starts`."""
        dtype = self.settings["dtype"]
        if dtype == "float16" and len(values) and float(np.abs(values).max()) > _LARGEST:
            raise InputError(
                f"dtype: expected weights up to {_LARGEST:.0f} for float16, got {np.abs(values).max():.0f}; take "
                "float32 or uint8"
            )
        if dtype != "uint8":
            return {"weights": values.astype(dtype)}
        if not len(starts):
            return {name: np.zeros(0, kind) for name, kind in (("weights", np.uint8), ("low", "f4"), ("step", "f4"))}
        lengths = np.diff(np.append(starts, len(values)))
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        step = (high.astype(np.float64) - low) / 255
        codes = (values - np.repeat(low.astype(np.float64), lengths)) / np.repeat(np.where(step > 0, step, 1), lengths)
        return {"weights": np.rint(codes).astype(np.uint8), "low": low, "step": step.astype(np.float32)}

    def scores(
        self, queries: Any, allowed: NDArray[np.bool_], *, unmatched: bool = False
    ) -> Iterable[NDArray[np.float32]]:
        """Compute the dot products of every query, one after another as they are asked for.

        Args:
            queries: Rows as for `pack`, or a single one `(dim,)`.
            allowed: Rows that may be found.
            unmatched: Whether a row whose score is 0, because it shares no term with the query, counts with that
                score; otherwise it is not found.

        Raises:
            ShapeError: The queries are of another dimension than the index.
        """
        asked = sparse_rows(queries)
        if self.settings["dim"] not in (None, asked.dim):
            raise ShapeError(
                f"queries: expected {self.settings['dim']} dimensions as in the index, got {asked.dim}; search with "
                "the model that made the index, or make it again"
            )
        hidden = None if allowed.all() else ~allowed
        assert asked.offsets is not None and asked.indices is not None
        columns, weights = asked.indices, asked.values
        return (
            self._scores_of(columns[start:stop], weights[start:stop], hidden, len(allowed), unmatched=unmatched)
            for start, stop in pairwise(asked.offsets.tolist())
        )

    def _scores_of(
        self,
        columns: Array,
        weights: Array,
        hidden: NDArray[np.bool_] | None,
        size: int,
        *,
        unmatched: bool,
    ) -> NDArray[np.float32]:
        total = np.zeros(size, dtype=np.float64)
        start = 0
        for part in self.segments.parts:
            for rows, products in self._products(part, columns, weights):
                np.add.at(total[start : start + len(part)], rows, products)
            start += len(part)
        scores = total.astype(np.float32)
        if hidden is not None:
            scores[hidden] = MISSING
        if not unmatched:
            scores[scores == 0] = MISSING
        return scores

    def _products(self, part: Part, columns: Array, weights: Array) -> Iterator[tuple[Array, Array]]:
        """Find rows of a segment that share a term with a query, once for each, and what that adds to their scores.

        Yields:
            Rows `(postings,)` of some of the terms and the products, float64.
        """
        # Plain views: slicing a memory map costs more than its numbers.
        held = {
            name: np.asarray(part.arrays[self.prefix + name]) for name in ("terms", "terms_starts", "rows", "weights")
        }
        at = np.searchsorted(held["terms"], columns)
        at, there = np.minimum(at, max(0, len(held["terms"]) - 1)), np.zeros(len(columns), dtype=bool)
        if len(held["terms"]):
            there = held["terms"][at] == columns
        at, asked = at[there], weights[there].astype(np.float64)
        starts, stops = held["terms_starts"][at], held["terms_starts"][at + 1]
        factors, added = asked, None
        if f"{self.prefix}step" in part.arrays:
            low, step = (part.arrays[self.prefix + name][at] for name in ("low", "step"))
            factors, added = asked * step, asked * low
        lengths = stops - starts
        # Whole slices are copied; picking postings one by one costs more than their products.
        spans = [slice(*span) for span in zip(starts.tolist(), stops.tolist(), strict=True)]
        ends = np.flatnonzero(np.diff(np.cumsum(lengths) // POSTINGS_AT_ONCE)) + 1
        for first, last in pairwise([0, *ends.tolist(), len(spans)] if spans else []):
            rows = np.concatenate([held["rows"][span] for span in spans[first:last]])
            found = np.concatenate([held["weights"][span] for span in spans[first:last]]).astype(np.float64)
            found *= np.repeat(factors[first:last], lengths[first:last])
            if added is not None:
                found += np.repeat(added[first:last], lengths[first:last])
            yield rows, found


def sparse_rows(rows: Any) -> Packed:
    """Make sparse float32 rows without zeros out of what an encoder returned.

    Args:
        rows: See `SparseIndex.pack`; also a single row `(dim,)`.

    Raises:
        ShapeError: These are token vectors.
    """
    packed = Packed.of(rows[None] if getattr(rows, "ndim", 2) == 1 else rows, "float32")
    if packed.offsets is None:
        row, column = np.nonzero(packed.values)
        offsets = np.searchsorted(row, np.arange(len(packed) + 1)).astype(np.int64)
        return Packed(
            values=packed.values[row, column], offsets=offsets, indices=column.astype(np.int32), dim=packed.dim
        )
    if packed.indices is None:
        raise ShapeError(
            f"rows: expected sparse rows (rows, dim), got token vectors of {packed.dim} dimensions; they go into a "
            "LateIndex"
        )
    if packed.values.all():
        return packed
    kept = packed.values != 0
    offsets = np.concatenate([[0], np.cumsum(kept)])[packed.offsets]
    return Packed(values=packed.values[kept], offsets=offsets, indices=packed.indices[kept], dim=packed.dim)
