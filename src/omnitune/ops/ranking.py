"""Arithmetic of losses of lists: a query's documents with their scores and labels, as pure functions.

Everywhere, `scores` and `labels` are `(queries, documents)`, and `mask` `(queries, documents)` is True where there is a
document: lists may differ in length, and what the mask leaves out counts for nothing.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

ABSENT = -1e16
"""Score of no document: far below any score, and finite, so that differences of two are 0 and no gradient is NaN."""


def list_net(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy between the distributions over a query's documents that labels and scores give.

    Returns:
        Mean over queries, a scalar.

    Source:
        Cao et al. 2007, eq. 8 with top one probabilities (ICML 2007, 129-136).
    """
    target = labels.masked_fill(~mask, -torch.inf).softmax(dim=1)
    return F.cross_entropy(scores.masked_fill(~mask, ABSENT), target)


def list_mle(scores: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the order of the columns under the Plackett-Luce model of the scores.

    Args:
        scores: In the order that is likely to be right, `(queries, documents)`; lists are aligned to the left.
        mask: Where there is a document.
        weights: Weight of each position; scaled to a sum of one. None weighs all alike, by 1.

    Returns:
        Mean over queries, a scalar.

    Source:
        Xia et al. 2008, eq. 10 (ICML 2008, 1192-1199); Lan et al. 2014, eq. 5 (UAI 2014, 449-458) for the weights.
    """
    present = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    rest = present.flip(1).logcumsumexp(dim=1).flip(1)
    likelihood = (scores - rest).masked_fill(~mask, 0.0)
    if weights is not None:
        likelihood = likelihood * (weights / (weights.sum(dim=1, keepdim=True) + 1e-10))
    return -likelihood.sum(dim=1).mean()


def position_weights(mask: Tensor) -> Tensor:
    """Weights that halve from one position to the next: `2^(n - rank) - 1` for a list of n documents.

    Source:
        Lan et al. 2014, section 3.2 (UAI 2014, 449-458).
    """
    count = mask.sum(dim=1, keepdim=True)
    ranks = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    # Weights are scaled to a sum of one, so a common power of two keeps long lists within float32.
    shift = (count - 127).clamp_min(0)
    return (torch.pow(2.0, count - ranks - shift) - torch.pow(2.0, -shift)) * mask


def average_descending_ranks(labels: Tensor, mask: Tensor) -> Tensor:
    """Rank of every document by its label, 1 for the highest, the mean rank for equal ones `(queries, documents)`."""
    higher = (labels[:, None, :] > labels[:, :, None]) & mask[:, None, :]
    equal = (labels[:, None, :] == labels[:, :, None]) & mask[:, None, :]
    return higher.sum(dim=-1) + (equal.sum(dim=-1) + 1.0) / 2.0


def adr_mse(scores: Tensor, labels: Tensor, mask: Tensor, alpha: float = 1.0) -> Tensor:
    """Squared error between a document's rank by label and its smooth rank by score, discounted as in DCG.

    Args:
        scores: Of the model.
        labels: Higher is more relevant.
        mask: Where there is a document.
        alpha: Steepness of the smooth comparison of two scores.

    Returns:
        Mean over documents, a scalar.

    Source:
        Schlatt et al. 2025, eq. 4 (ECIR 2025, doi:10.1007/978-3-031-88714-7_31); Qin et al. 2010 for the smooth ranks.
    """
    ranks = average_descending_ranks(labels, mask)
    beats = torch.sigmoid(alpha * (scores[:, None, :] - scores[:, :, None])) * mask[:, None, :]
    # A document's comparison with itself is 1/2 and no rank.
    smooth = 1.0 + beats.sum(dim=2) - 0.5 * mask
    error = (ranks - smooth).square() / torch.log2(ranks + 1.0)
    return (error * mask).sum() / mask.sum()


Weighting = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Gains `(queries, documents)`, discounts `(1, documents)` and labels, all by rank of score, to weights of pairs that
broadcast to `(queries, documents, documents)`."""


def lambda_loss(
    scores: Tensor,
    labels: Tensor,
    mask: Tensor,
    weighting: Weighting,
    *,
    every_pair: bool = False,
    k: int | None = None,
    sigma: float = 1.0,
    eps: float = 1e-10,
    binary_log: bool = True,
) -> Tensor:
    """Logistic loss of the score differences of pairs of documents, weighted by what their order is worth.

    Args:
        scores: Of the model.
        labels: Relevance, at least 0 where it counts as gain.
        mask: Where there is a document.
        weighting: What the order of a pair is worth.
        every_pair: Take all pairs, not only those whose first document has the higher label.
        k: Pairs count when one of them is among the first k by score; None takes all.
        sigma: Steepness of the logistic function.
        eps: Least ideal DCG, for lists without relevant documents.
        binary_log: Logarithms to base 2; otherwise natural.

    Returns:
        Mean over the pairs that count, a scalar; 0 where none does.

    Source:
        Wang et al. 2018, eq. 7 and 18 (CIKM 2018, 1313-1322).
    """
    longest = scores.shape[1]
    present = labels.masked_fill(~mask, -torch.inf)
    by_score, order = scores.masked_fill(~mask, ABSENT).sort(descending=True, dim=1)
    relevance = present.gather(1, order)
    differences = relevance[:, :, None] - relevance[:, None, :]
    counts = differences.isfinite() if every_pair else differences.isfinite() & (differences > 0)
    first = torch.arange(longest, device=scores.device) < (longest if k is None else k)
    counts = counts & (first[:, None] | first[None, :])
    relevance = relevance.clamp(min=0.0)
    discounts = torch.log2(torch.arange(2, longest + 2, device=scores.device, dtype=scores.dtype))[None, :]
    ideal = (torch.pow(2, present.sort(descending=True, dim=1).values.clamp(min=0.0)) - 1) / discounts
    gains = (torch.pow(2, relevance) - 1) / ideal[:, :k].sum(dim=1, keepdim=True).clamp(min=eps)
    margins = (by_score[:, :, None] - by_score[:, None, :]).clamp(-1e8, 1e8)
    terms = weighting(gains, discounts, relevance) * F.logsigmoid(sigma * margins)
    if binary_log:
        terms = terms / math.log(2)
    return -terms[counts].sum() / max(int(counts.sum()), 1)
