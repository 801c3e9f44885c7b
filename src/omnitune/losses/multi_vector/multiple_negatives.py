"""In-batch negatives for late interaction."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError
from omnitune.losses.multi_vector.base import LateLoss
from omnitune.ops.collectives import gather_embeddings, world_size
from omnitune.ops.objectives import SCORES_AT_ONCE, mean_in_blocks
from omnitune.types import Embeddings, Objective

_KEPT = 4
"""Winners and maxima that are kept at a time, in `SCORES_AT_ONCE`: two numbers each of a query token and document."""


class MultiVectorMultipleNegativesRankingLoss(LateLoss):
    """Cross-entropy of each query's positive among all documents of the batch, over (query, positive, negative, ...).

    Args:
        model: The encoder.
        scale: Inverse temperature; sums over tokens need none, means about 50 (`mean_colbert_scores`).
        similarity_fct: Score function, `colbert_scores` by default; `XTRScores` and the caller's own work too.
        mini_batch_size: Most items a mini-batch holds; None plans by cost alone.
        score_mini_batch_size: Accepted for compatibility: scores are made in blocks of a constant size.
        gather_across_devices: Whether documents of all ranks are candidates; real tokens alone travel.
        smooth: Temperature of a smooth maximum over document tokens; None takes the maximum.
        false_negative_threshold: A candidate that scores more than this share of the positive is taken for a false
            negative and scaled down; None for not.
        false_negative_factor: What its score is multiplied by.
        symmetric: Whether positives look for their queries as well, both directions averaged.
        mini_batch_num_tokens: Most padded tokens a mini-batch holds, in place of `mini_batch_size`.
        show_progress_bar: Whether to show the mini-batches of every step.

    Raises:
        InputError: A number is out of its range.

    Source:
        Khattab and Zaharia 2020 (arXiv:2004.12832); `smooth` to `symmetric` as colpali-engine 0.3 has them.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> loss = MultiVectorMultipleNegativesRankingLoss(late)
        >>> trainer = MultiVectorEncoderTrainer(model=late, train_dataset=rows, loss=loss)
    """

    paper = "khattab2020colbert"
    config_keys = ["scale", "score_mini_batch_size", "gather_across_devices"]

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float = 1.0,
        similarity_fct: Callable[..., Tensor] | None = None,
        mini_batch_size: int | None = None,
        score_mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
        smooth: float | None = None,
        false_negative_threshold: float | None = None,
        false_negative_factor: float = 0.5,
        symmetric: bool = False,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        super().__init__(
            model,
            similarity_fct,
            smooth=smooth,
            mini_batch_size=mini_batch_size,
            mini_batch_num_tokens=mini_batch_num_tokens,
            show_progress_bar=show_progress_bar,
        )
        if not scale > 0:
            raise InputError(f"scale: expected a positive number, got {scale}")
        if false_negative_threshold is not None and not false_negative_threshold > 0:
            raise InputError(f"false_negative_threshold: expected a positive share, got {false_negative_threshold}")
        self.scale = scale
        self.score_mini_batch_size = score_mini_batch_size
        self.gather_across_devices = gather_across_devices
        self.false_negative_threshold = false_negative_threshold
        self.false_negative_factor = false_negative_factor
        self.symmetric = symmetric

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Contrastive loss of packed token vectors: queries, positives, then negatives."""
        del labels
        self._expect_columns(embeddings, "(query, positive) or (query, positive, negative, ...)", least=2)
        queries, documents, first = embeddings[0], list(embeddings[1:]), 0
        if self.gather_across_devices:
            gathered = [gather_embeddings(column) for column in documents]
            documents, first = [column for column, _ in gathered], gathered[0][1]

        def block(start: int, stop: int) -> Tensor:
            own = torch.arange(first + start, first + stop, device=queries.values.device)
            scores = self._filtered(self.scores(queries[start:stop], documents), own) * self.scale
            return F.cross_entropy(scores, own)

        longest = int(queries.lengths.max()) if len(queries) else 1
        seen = max(1, longest * sum(map(len, documents)) // _KEPT)
        whole = self.symmetric or self._score is None or longest * len(queries) * seen <= SCORES_AT_ONCE
        if not whole:
            return mean_in_blocks(block, len(queries), seen)
        if not self.symmetric:
            return block(0, len(queries))
        own = torch.arange(first, first + len(queries), device=queries.values.device)
        scores = self._filtered(self.scores(queries, documents), own) * self.scale
        local = torch.arange(len(queries), device=own.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores[:, own].T, local)) / 2

    def _filtered(self, scores: Tensor, own: Tensor) -> Tensor:
        """Scores with candidates scaled down that are so close that they are taken for positives."""
        if self.false_negative_threshold is None:
            return scores
        positive = scores.gather(1, own[:, None])
        suspect = (scores > self.false_negative_threshold * positive).scatter(1, own[:, None], value=False)
        return torch.where(suspect, scores * self.false_negative_factor, scores)

    def negatives_per_query(self, batch_size: int, columns: int) -> int | None:
        """Count the documents that compete with each positive, over all ranks where they are gathered."""
        return batch_size * (world_size() if self.gather_across_devices else 1) * (columns - 1) - 1

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card; those of ours where they are used."""
        config = super().get_config_dict()
        if self.false_negative_threshold is not None:
            config["false_negative_threshold"] = self.false_negative_threshold
            config["false_negative_factor"] = self.false_negative_factor
        return {**config, "symmetric": True} if self.symmetric else config


class CachedMultiVectorMultipleNegativesRankingLoss(MultiVectorMultipleNegativesRankingLoss):
    """`MultiVectorMultipleNegativesRankingLoss` whose mini-batches are cut by a size that the caller sets.

    Loss and gradients are the same, and so is the memory behaviour: graphs are kept while the budget allows, the rest
    is replayed.

    Args:
        model: The encoder.
        scale: As in `MultiVectorMultipleNegativesRankingLoss`, as are all that are not named below.
        mini_batch_size: Most items a mini-batch holds.
        mini_batch_num_tokens: Most padded tokens a mini-batch holds, in place of `mini_batch_size`.
        show_progress_bar: Whether to show the mini-batches of every step.
        **options: Those of ours: `smooth`, `false_negative_threshold`, `false_negative_factor`, `symmetric`.

    Raises:
        InputError: As in `MultiVectorMultipleNegativesRankingLoss`.

    Source:
        Gao et al. 2021 (arXiv:2101.06983).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> loss = CachedMultiVectorMultipleNegativesRankingLoss(late, mini_batch_size=16)
        >>> trainer = MultiVectorEncoderTrainer(model=late, train_dataset=rows, loss=loss)
    """

    config_keys = [*MultiVectorMultipleNegativesRankingLoss.config_keys, "mini_batch_num_tokens"]

    def __init__(
        self,
        model: nn.Module,
        *,
        scale: float = 1.0,
        similarity_fct: Callable[..., Tensor] | None = None,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        score_mini_batch_size: int | None = None,
        gather_across_devices: bool = False,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            scale=scale,
            similarity_fct=similarity_fct,
            mini_batch_size=mini_batch_size,
            mini_batch_num_tokens=mini_batch_num_tokens,
            score_mini_batch_size=mini_batch_size if score_mini_batch_size is None else score_mini_batch_size,
            gather_across_devices=gather_across_devices,
            show_progress_bar=show_progress_bar,
            **options,
        )
