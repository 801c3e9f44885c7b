"""Comparison of two systems on the same queries, by paired bootstrap.

The same resampled queries score both systems, so what the queries have in common cancels out. Queries written from one
document succeed and fail together; resampling whole documents (`clusters`) keeps an interval honest about that.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omnitune.errors import InputError, ShapeError

_DRAWS_AT_ONCE = 4_000_000

Scores = Sequence[float] | NDArray[Any] | Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two systems on the same queries.

    Attributes:
        baseline: Mean score of the first system.
        candidate: Mean score of the second system.
        difference: `candidate - baseline`.
        low: Lower end of the interval of the difference.
        high: Upper end of the interval of the difference.
        p_value: Two-sided, in (0, 1]: twice the share of resamples whose difference is on the far side of zero or at
            zero, counting the sample itself once, so never 0 and at most 1. Below `1 - confidence` exactly where the
            interval leaves zero out, up to one resample.
        confidence: Of the interval, for example 0.95.
        queries: Number of queries.
        clusters: Number of units that were resampled: documents, or the queries themselves.
        resamples: Number of resamples.
        seed: Of the resampling.
    """

    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    p_value: float
    confidence: float
    queries: int
    clusters: int
    resamples: int
    seed: int

    @property
    def measurable(self) -> bool:
        """Tell whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    baseline: Scores,
    candidate: Scores,
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Difference of two systems' mean scores over queries, with a percentile interval and a p-value.

    Args:
        baseline: Score of the first system on every query `(queries,)`.
        candidate: Score of the second system on the same queries in the same order `(queries,)`.
        clusters: The document each query belongs to: whole documents are resampled. None resamples queries.
        resamples: Number of resamples.
        confidence: Share of resampled differences inside the interval, between 0 and 1.
        seed: Of the resampling; the same seed gives the same numbers.

    Raises:
        ShapeError: The systems were not scored on the same number of queries, or `clusters` has another length.
        InputError: There are no queries, or `confidence` or `resamples` is out of range.

    Source:
        Efron and Tibshirani 1993, sections 13.3 (percentile interval) and 15.4; Sakai 2006 for retrieval metrics.
    """
    first, second = (np.asarray(scores, dtype=np.float64) for scores in (baseline, candidate))
    if first.ndim != 1 or first.shape != second.shape:
        raise ShapeError(
            f"candidate: expected one score per query as in baseline {first.shape}, got {second.shape}; "
            "score both systems on the same queries"
        )
    if clusters is not None and len(clusters) != len(first):
        raise ShapeError(f"clusters: expected one document for each of {len(first)} queries, got {len(clusters)}")
    if not len(first):
        raise InputError("baseline: expected the score of at least one query, got none")
    if resamples < 1:
        raise InputError(f"resamples: expected at least 1, got {resamples}; 10,000 is usual")
    if not 0 < confidence < 1:
        raise InputError(f"confidence: expected a share between 0 and 1, got {confidence}; 0.95 is usual")
    differences = second - first
    sums, sizes = differences, np.ones_like(differences)
    if clusters is not None:  # drawn whole
        numbers: dict[Hashable, int] = {}
        groups = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
        sums, sizes = (np.bincount(groups, weights=each).astype(np.float64) for each in (sums, sizes))
    # A few resamples at a time bound the memory.
    random = np.random.default_rng(seed)
    units = len(sums)
    means = np.empty(resamples)
    step = max(1, _DRAWS_AT_ONCE // units)
    for start in range(0, resamples, step):
        drawn = random.integers(0, units, size=(min(step, resamples - start), units))
        means[start : start + step] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    against = 1 + min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Comparison(
        baseline=float(first.mean()),
        candidate=float(second.mean()),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * against / (resamples + 1)),
        confidence=confidence,
        queries=len(differences),
        clusters=len(sums),
        resamples=resamples,
        seed=seed,
    )
