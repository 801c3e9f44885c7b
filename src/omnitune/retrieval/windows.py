"""Vectors of windows as those of the documents that were cut into them; the cutting is `model.windows`."""

from collections.abc import Sequence

import numpy as np

from omnitune.model.windows import OVERLAP, window_cutter
from omnitune.retrieval.packed import Packed

__all__ = ["OVERLAP", "grouped", "window_cutter"]


def grouped(rows: Packed, counts: Sequence[int]) -> Packed:
    """Windows' vectors as documents': those of a document's windows, one after another.

    Args:
        rows: Vectors of the windows: dense `(windows, dim)`, or ragged.
        counts: Windows of every document.
    """
    ends = np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))]).astype(np.int64)
    offsets = ends if rows.offsets is None else rows.offsets[ends]
    return Packed(values=rows.values, offsets=offsets, dim=rows.dim)
