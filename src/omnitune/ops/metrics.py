"""Retrieval and correlation metrics, one number a query or a pair, without loops over queries.

Everything starts from one matrix: which of a query's ranked candidates are relevant. Per-query values are kept so that
two systems can be compared query by query (`ops.significance`); a report's number is their mean.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnitune.errors import InputError, ShapeError


def expect_numbers(values: Any, name: str) -> None:
    """See that no metric is made of what is no number.

    Args:
        values: A tensor or an array; anything else passes.
        name: What they are, for the message.

    Raises:
        InputError: One of them is NaN or infinite.
    """
    if not isinstance(values, Tensor | np.ndarray):
        return
    tensor = torch.as_tensor(values)
    if tensor.layout != torch.strided:
        tensor = tensor.coalesce().values() if tensor.layout == torch.sparse_coo else tensor.values()
    if not tensor.isfinite().all():
        wrong = tensor[~tensor.isfinite()]
        raise InputError(
            f"{name}: expected numbers from the model, got {float(wrong[0])} ({len(wrong):,} of {tensor.numel():,}); "
            "its weights or inputs hold values that are no numbers"
        )


def mark_relevant(ranked: Tensor, relevant_queries: Tensor, relevant_documents: Tensor) -> Tensor:
    """Mark the ranked candidates that are relevant to their query.

    Args:
        ranked: Documents of each query, best first `(queries, k)`, int64; a negative number stands for no document.
        relevant_queries: Query of each known relevant pair `(pairs,)`, int64 in [0, queries).
        relevant_documents: Document of each known relevant pair `(pairs,)`, int64.

    Returns:
        `(queries, k)` bool.

    Raises:
        ShapeError: The pairs' queries and documents differ in number.
    """
    if relevant_queries.shape != relevant_documents.shape:
        raise ShapeError(
            f"relevant_documents: expected one document for each of {len(relevant_queries)} relevant queries, "
            f"got {len(relevant_documents)}; pass two vectors of equal length"
        )
    largest = max((int(t.max()) for t in (ranked, relevant_documents) if t.numel()), default=0)
    base = largest + 1
    queries = torch.arange(len(ranked), dtype=torch.int64).unsqueeze(1)
    found = torch.isin(queries * base + ranked, relevant_queries * base + relevant_documents)
    return found & (ranked >= 0)


def accuracy_at(relevance: Tensor, k: int) -> Tensor:
    """Accuracy: 1 where a relevant document is among the first `k`, else 0; `(queries,)` float64."""
    return relevance[:, :k].any(dim=1).double()


def precision_at(relevance: Tensor, k: int) -> Tensor:
    """Share of the first `k` places with a relevant document `(queries,)`, float64; a missing place counts as wrong."""
    return relevance[:, :k].sum(dim=1).double() / k


def recall_at(relevance: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Share of a query's relevant documents found among the first `k` `(queries,)`, float64.

    Args:
        relevance: `(queries, at least k)` bool, best first.
        relevant: Number of relevant documents of each query `(queries,)`, at least 1.
        k: Cut-off.
    """
    return relevance[:, :k].sum(dim=1).double() / relevant


def reciprocal_rank_at(relevance: Tensor, k: int) -> Tensor:
    """1 / rank of the first relevant document, or 0 where it is not among the first `k` `(queries,)`, float64."""
    head = relevance[:, :k].double()
    return (head / _ranks(head)).amax(dim=1)


def ndcg_at(relevance: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Discounted cumulative gain over the best possible one, with gains of 0 or 1 `(queries,)`, float64 in [0, 1].

    Args:
        relevance: `(queries, at least k)` bool, best first.
        relevant: Number of relevant documents of each query `(queries,)`, at least 1.
        k: Cut-off.

    Source:
        Järvelin and Kekäläinen 2002; discount 1 / log2(rank + 1).
    """
    head = relevance[:, :k].double()
    discounts = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    gained = (head * discounts[: head.shape[1]]).sum(dim=1)
    return gained / discounts.cumsum(0)[relevant.clamp(max=k) - 1]


def average_precision_at(relevance: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Mean precision at the ranks of relevant documents, over `min(k, relevant)` `(queries,)`, float64 in [0, 1].

    Args:
        relevance: `(queries, at least k)` bool, best first.
        relevant: Number of relevant documents of each query `(queries,)`, at least 1.
        k: Cut-off.
    """
    head = relevance[:, :k].double()
    precisions = head.cumsum(dim=1) / _ranks(head)
    return (precisions * head).sum(dim=1) / relevant.clamp(max=k)


def retrieval_metrics(
    relevance: Tensor,
    relevant: Tensor,
    *,
    accuracy: Sequence[int] = (1, 3, 5, 10),
    precision_recall: Sequence[int] = (1, 3, 5, 10),
    ndcg: Sequence[int] = (10,),
    mrr: Sequence[int] = (10,),
    map: Sequence[int] = (100,),
) -> dict[str, Tensor]:
    """All metrics of all queries.

    Args:
        relevance: Which ranked candidates are relevant `(queries, k)` bool, best first.
        relevant: Number of relevant documents of each query `(queries,)` int64, at least 1.
        accuracy: Cut-offs of accuracy.
        precision_recall: Cut-offs of precision and of recall.
        ndcg: Cut-offs of NDCG.
        mrr: Cut-offs of the reciprocal rank.
        map: Cut-offs of average precision.

    Returns:
        `{"ndcg@10": (queries,) float64, ...}`; the mean of a value over queries is the metric.

    Raises:
        ShapeError: `relevant` does not hold one number per row of `relevance`.
    """
    if relevant.shape != relevance.shape[:1]:
        raise ShapeError(
            f"relevant: expected one number for each of {len(relevance)} queries, got shape {tuple(relevant.shape)}; "
            "pass the number of relevant documents of every query"
        )
    return {
        **{f"accuracy@{k}": accuracy_at(relevance, k) for k in accuracy},
        **{f"precision@{k}": precision_at(relevance, k) for k in precision_recall},
        **{f"recall@{k}": recall_at(relevance, relevant, k) for k in precision_recall},
        **{f"ndcg@{k}": ndcg_at(relevance, relevant, k) for k in ndcg},
        **{f"mrr@{k}": reciprocal_rank_at(relevance, k) for k in mrr},
        **{f"map@{k}": average_precision_at(relevance, relevant, k) for k in map},
    }


def ranking_metrics(scores: Tensor, relevant: Tensor, lengths: Tensor, k: int) -> dict[str, Tensor]:
    """Metrics of the ranking of each query's own candidates, of which every query has its own number.

    Equal scores share precision and gain, so their order does not matter; but for the reciprocal rank, where they stay
    in the order given.

    Args:
        scores: Of all candidates, query after query `(candidates,)`, higher is better.
        relevant: Which of them are relevant `(candidates,)` bool.
        lengths: Candidates of each query `(queries,)`, int64.
        k: Cut-off of the reciprocal rank and of NDCG.

    Returns:
        `{"map": ..., "mrr@k": ..., "ndcg@k": ...}`, each `(queries,)` float64 in [0, 1]; 0 for a query without a
        relevant candidate.

    Raises:
        ShapeError: Scores, relevance and lengths do not speak of the same number of candidates.
        InputError: A score is no number.

    Source:
        Agrees with scikit-learn's `average_precision_score` and `ndcg_score` on each query.
    """
    if relevant.shape != scores.shape or int(lengths.sum()) != len(scores):
        raise ShapeError(
            f"relevant, lengths: expected one mark for each of {len(scores)} scores, and lengths that add up to them, "
            f"got {tuple(relevant.shape)} and a sum of {int(lengths.sum())}"
        )
    expect_numbers(scores, "scores")
    query = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    order = scores.argsort(descending=True, stable=True)
    order = order[query[order].argsort(stable=True)]
    scores, gain = scores[order], relevant[order].double()
    rank = torch.arange(1, len(scores) + 1) - (lengths.cumsum(0) - lengths)[query]

    starts = torch.ones(len(scores), dtype=torch.bool)
    starts[1:] = (scores[1:] != scores[:-1]) | (query[1:] != query[:-1])
    tie = starts.cumsum(0) - 1
    size = torch.bincount(tie)
    last = (size.cumsum(0) - 1)[tie]

    def total(values: Tensor) -> Tensor:
        return torch.zeros(len(lengths), dtype=torch.float64).index_add(0, query, values)

    known = total(gain)
    before = (known.cumsum(0) - known)[query]
    precision = (gain.cumsum(0)[last] - before) / rank[last]
    shared = (torch.bincount(tie, weights=gain) / size)[tie]
    discounts = 1.0 / torch.log2(torch.arange(2, k + 2, dtype=torch.float64))
    ideal = torch.cat([torch.zeros(1, dtype=torch.float64), discounts.cumsum(0)])[known.long().clamp(max=k)]
    gained = total(shared * discounts[(rank - 1).clamp(max=k - 1)] * (rank <= k))
    first = torch.zeros_like(known).scatter_reduce(0, query, gain * (rank <= k) / rank, "amax")
    return {
        "map": total(gain * precision) / known.clamp(min=1),
        f"mrr@{k}": first,
        f"ndcg@{k}": torch.where(known > 0, gained / ideal, 0.0),
    }


def _ranks(head: Tensor) -> Tensor:
    return torch.arange(1, head.shape[1] + 1, dtype=torch.float64)


def pearson(x: Tensor, y: Tensor) -> float:
    """Linear correlation of two vectors `(n,)`, in [-1, 1]; NaN where one of them is constant or has a NaN."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    norms = float(x.norm() * y.norm())
    if norms == 0.0 or not math.isfinite(norms):  # min(1.0, nan) below would be 1.0
        return math.nan
    return max(-1.0, min(1.0, float(x @ y) / norms))


def average_ranks(values: Tensor) -> Tensor:
    """Rank of every value, smallest first, 1-based `(n,)` float64; equal values share the mean of their ranks."""
    _, group, sizes = torch.unique(values, sorted=True, return_inverse=True, return_counts=True)
    ranks: Tensor = sizes.cumsum(0) - (sizes.double() - 1) / 2
    return ranks[group]


def spearman(x: Tensor, y: Tensor) -> float:
    """Correlation of the ranks of two vectors `(n,)`, in [-1, 1]; NaN where one of them is constant or has a NaN."""
    if x.isnan().any() or y.isnan().any():
        return math.nan
    return pearson(average_ranks(x), average_ranks(y))
