"""Vectors of windows as those of the documents that were cut into them; the cutting is `model.windows`."""

from collections.abc import Sequence

import numpy as np

from omnitune.retrieval.packed import Packed


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
