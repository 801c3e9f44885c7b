"""MaxSim of packed queries against packed documents, in blocks, without padding."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnitune.ops.maxsim import EMPTY_DOCUMENT, streamed_maxima


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
        Scores `(queries, documents)`; -1e9 for documents without vectors.

    Example:
        >>> q, d = torch.eye(3), torch.eye(3)
        >>> at = np.array([0, 1, 3])
        >>> maxsim_blocks(q, np.array([0, 2, 3]), lambda first, last: d[at[first] : at[last]], at)
        array([[1., 1.],
               [0., 1.]], dtype=float32)
    """
    made = np.full((len(query_offsets) - 1, len(offsets) - 1), EMPTY_DOCUMENT, dtype=np.float32)
    for filled, best in streamed_maxima(queries, decode, offsets, scales):
        made[:, filled] = np.add.reduceat(best, query_offsets[:-1], axis=0)
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
