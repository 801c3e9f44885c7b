"""Arithmetic of losses, as pure functions of scores: no model, no columns, no state.

Each works on a block of queries against all their candidates, so that a long batch may be cut into blocks of queries.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from omnitune.errors import InputError, ShapeError

Direction: TypeAlias = Literal["query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"]
PartitionMode: TypeAlias = Literal["joint", "per_direction"]
HardnessMode: TypeAlias = Literal["in_batch_negatives", "hard_negatives", "all_negatives"]


def info_nce(scores: Tensor, positives: Tensor, scale: float = 20.0) -> Tensor:
    """Cross-entropy of every query against its positive candidate.

    Args:
        scores: Similarities `(queries, candidates)`, higher is closer, not yet scaled; -inf for what is no candidate.
        positives: Column of each query's positive `(queries,)`, int64.
        scale: Inverse temperature: 20 for cosine in [-1, 1], about 1 for unbounded scores.

    Returns:
        Mean loss over queries, a scalar of the dtype of `scores`.

    Raises:
        ShapeError: `positives` does not hold one column per row of `scores`.

    Source:
        van den Oord et al. 2018, eq. 4 (arXiv:1807.03748).
    """
    if positives.shape != scores.shape[:1]:
        raise ShapeError(
            f"positives: expected one column per query, ({scores.shape[0]},), got {tuple(positives.shape)}"
        )
    return F.cross_entropy(scores * scale, positives)


def multiple_negatives(
    scores: Mapping[Direction, Tensor],
    own: Tensor,
    *,
    rows: int,
    scale: float = 20.0,
    partition_mode: PartitionMode = "joint",
    hardness: tuple[HardnessMode, float] | None = None,
    owners: Tensor | None = None,
) -> Tensor:
    """Contrastive loss of queries against the documents, and optionally the queries, of the whole batch.

    A query with several positives stands in `queries` once for each; scores of its others are then -inf.

    Args:
        scores: Similarities by direction. "query_to_doc" `(queries, columns * rows)`: document `row` of column `c` is
            at `c * rows + row`, and column 0 holds the positives; "doc_to_doc" likewise, seen from each query's
            positive; "query_to_query" and "doc_to_query" `(queries, rows)`.
        own: Document that is each query's positive `(queries,)`, int64.
        rows: Rows of the whole batch.
        scale: Inverse temperature.
        partition_mode: "joint" puts all directions in one softmax; "per_direction" averages one loss a direction.
        hardness: Which negatives are made to count more the closer they are, and how strongly.
        owners: Row of each document `(documents,)`, int64, where rows have unequally many; all positives come first.

    Returns:
        Mean loss over queries, a scalar.

    Source:
        van den Oord et al. 2018, eq. 4 (arXiv:1807.03748); the four directions: Li et al. 2023, eq. 2
        (arXiv:2308.03281); hardness: Lan et al. 2025, eq. 5 (arXiv:2503.04812).
    """
    candidates = dict(scores)
    mine = own if owners is None else owners[own]
    if "query_to_query" in scores:
        own_query = torch.arange(rows, device=own.device) == mine[:, None]
        candidates["query_to_query"] = scores["query_to_query"].masked_fill(own_query, -torch.inf)
    if "doc_to_doc" in scores:
        own_documents = _own_columns(scores["doc_to_doc"], own, rows, owners)
        candidates["doc_to_doc"] = scores["doc_to_doc"].masked_fill(own_documents, -torch.inf)
    if hardness is not None:
        mode, strength = hardness
        penalty = hardness_penalty(scores["query_to_doc"], own, rows, mode, owners) * (strength / scale)
        candidates["query_to_doc"] = scores["query_to_doc"] + penalty
    if partition_mode == "joint":
        others = [matrix for direction, matrix in candidates.items() if direction != "query_to_doc"]
        return info_nce(torch.cat([candidates["query_to_doc"], *others], dim=1), own, scale)
    places = {"query_to_doc": own, "doc_to_query": mine}
    return torch.stack([info_nce(matrix, places[name], scale) for name, matrix in candidates.items()]).mean()


def hardness_penalty(
    scores: Tensor, own: Tensor, rows: int, mode: HardnessMode, owners: Tensor | None = None
) -> Tensor:
    """Detached similarities of the negatives that are to count more, 0 elsewhere.

    Args:
        scores: "query_to_doc" similarities `(queries, columns * rows)`.
        own: Batch row of each query `(queries,)`, int64.
        rows: Rows of the batch.
        mode: "in_batch_negatives": documents of other rows; "hard_negatives": the query's own documents but the
            positive; "all_negatives": both.
        owners: As in `multiple_negatives`.

    Returns:
        `(queries, columns * rows)`, without a graph.

    Source:
        Lan et al. 2025, eq. 5 (arXiv:2503.04812); hard negatives only: Schechter Vera et al. 2025 (arXiv:2509.20354).
    """
    mine = _own_columns(scores, own, rows, owners)
    positive = torch.arange(scores.shape[1], device=scores.device) == own[:, None]
    chosen = {"in_batch_negatives": ~mine, "hard_negatives": mine & ~positive, "all_negatives": ~positive}[mode]
    return torch.where(chosen, scores.detach(), 0.0)


def cosent(scores: Tensor, labels: Tensor, scale: float = 20.0) -> Tensor:
    """Penalty for every two pairs whose scores are in the other order than their labels.

    Takes `n log n` time and linear memory: with pairs sorted by label, the pairs that should score higher than one pair
    are a prefix.

    Args:
        scores: Similarities `(pairs,)`.
        labels: `(pairs,)`, any real dtype or bool; only their order matters.
        scale: Inverse temperature.

    Returns:
        `log(1 + sum exp(scale * (s_j - s_i)))` over all i, j with `labels[i] > labels[j]`, a scalar, float32 at least.

    Raises:
        ShapeError: `labels` does not hold one number per score.

    Source:
        Huang et al. 2024, CoSENT, eq. 6 (doi:10.1109/TASLP.2024.3402087).
    """
    if labels.shape != scores.shape:
        raise ShapeError(f"labels: expected one per pair, {tuple(scores.shape)}, got {tuple(labels.shape)}")
    falling = (-(labels if labels.dtype.is_signed else labels.int())).sort()
    scaled = scores[falling.indices].to(torch.promote_types(scores.dtype, torch.float32)) * scale
    higher = torch.searchsorted(falling.values, falling.values)
    log_sums = F.pad(torch.logcumsumexp(-scaled, dim=0), (1, 0), value=-torch.inf)
    return torch.logsumexp(F.pad(scaled + log_sums[higher], (1, 0)), dim=0)


def triplet_margin(positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Amount by which the negative is too close.

    Args:
        positive: Distance of the anchor from its positive `(rows,)`.
        negative: Distance of the anchor from its negative `(rows,)`.
        margin: How much farther the negative should be.

    Returns:
        Mean over rows of `max(positive - negative + margin, 0)`, a scalar.

    Source:
        Schroff et al. 2015, eq. 1 (arXiv:1503.03832), with the distance in place of its square.
    """
    return F.relu(positive - negative + margin).mean()


def margin_mse(positive: Tensor, negatives: Tensor, margins: Tensor) -> Tensor:
    """Squared error of score differences.

    Args:
        positive: Score of the positive `(rows,)`.
        negatives: Scores of the negatives `(rows, n)`.
        margins: What a teacher says that `positive - negatives` should be `(rows, n)`.

    Returns:
        Mean over all differences, a scalar.

    Raises:
        ShapeError: `margins` has another shape than `negatives`.

    Source:
        Hofstätter et al. 2020, eq. 1 (arXiv:2010.02666).
    """
    if margins.shape != negatives.shape:
        raise ShapeError(f"margins: expected {tuple(negatives.shape)}, got {tuple(margins.shape)}")
    return F.mse_loss(*in_one_format(positive[:, None] - negatives, margins))


def in_one_format(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Promote two tensors to the wider of their number formats, as the backward of torch 2.6's `mse_loss` asks."""
    wider = torch.promote_types(first.dtype, second.dtype)
    return first.to(wider), second.to(wider)


def temperatures(both: float, student: float | None, teacher: float | None) -> tuple[float, float]:
    """Check the temperatures of a distillation, and give those of the student and of the teacher.

    Args:
        both: Where one of them is not given.
        student: Of the model that is trained, or None.
        teacher: Of the scores that it learns from, or None.

    Raises:
        InputError: One of them is not positive and finite.
    """
    student, teacher = both if student is None else student, both if teacher is None else teacher
    for name, value in (("temperature", both), ("student_temperature", student), ("teacher_temperature", teacher)):
        if not 0 < value < math.inf:
            raise InputError(f"{name}: expected a positive finite number, got {value}")
    return student, teacher


def kl_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the student's distribution over the last axis from the teacher's.

    Args:
        student: Logits `(rows, candidates)`.
        teacher: Logits `(rows, candidates)`; no gradient reaches them.

    Returns:
        Mean over rows of `sum teacher * log(teacher / student)`, a scalar, at least 0.
    """
    target = F.softmax(teacher.detach(), dim=-1)
    return F.kl_div(F.log_softmax(student, dim=-1), target, reduction="batchmean")


def _own_columns(scores: Tensor, own: Tensor, rows: int, owners: Tensor | None) -> Tensor:
    """True where a column of `scores` `(queries, documents)` belongs to the query's own batch row."""
    if owners is None:
        return torch.arange(scores.shape[1], device=scores.device) % rows == own[:, None]
    return owners == owners[own][:, None]


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
