"""A mean over rows, block by block, for objectives whose scores do not fit in memory at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SCORES_AT_ONCE = 1 << 24
"""Scores that exist at the same time: 64 MB in float32, and a few times that while they are worked on."""


def mean_in_blocks(mean_of: Callable[[int, int], Tensor], rows: int, scores_per_row: int) -> Tensor:
    """Mean over rows of what `mean_of(start, stop)` gives for the rows from `start` up to `stop`.

    A block's intermediate results live only while it is worked on: backward computes them again, so a loss over
    `rows` takes four matrix products where three would do, and constant memory. What fits at once is one block, with
    nothing computed again.

    Args:
        mean_of: Mean over the rows of a block, a tensor of any shape.
        rows: Number of rows.
        scores_per_row: Scores that a row is compared by, in all.

    Returns:
        What `mean_of(0, rows)` would be, up to float re-association.
    """
    block = max(1, SCORES_AT_ONCE // scores_per_row)
    starts = range(0, rows, block)
    if len(starts) == 1:
        return mean_of(0, rows)
    means = [
        checkpoint(mean_of, i, min(i + block, rows), use_reentrant=False, preserve_rng_state=False) for i in starts
    ]
    return torch.stack([m * (min(block, rows - i) / rows) for m, i in zip(means, starts, strict=True)]).sum(dim=0)
