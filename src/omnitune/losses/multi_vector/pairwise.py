"""Positives against single negatives: the hardest of the batch, or the query's own hard ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError
from omnitune.losses.multi_vector.base import LateLoss
from omnitune.types import Embeddings, Objective


class MultiVectorPairwiseLoss(LateLoss):
    """`softplus((hardest negative - positive) / temperature)` of scores, over (query, positive) or with negatives.

    Args:
        model: The encoder.
        temperature: Divides differences of scores.
        similarity_fct: Score function; `mean_colbert_scores` makes long and short queries count alike.
        mini_batch_size: Most items a mini-batch holds; None plans by cost alone.
        smooth: Temperature of a smooth maximum over document tokens; None takes the maximum.

    Raises:
        InputError: `temperature` or `smooth` is not positive.

    Source:
        ColbertPairwiseCELoss of colpali-engine 0.3; Faysse et al. 2024 (arXiv:2407.01449).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> trainer = MultiVectorEncoderTrainer(model=late, train_dataset=rows, loss=MultiVectorPairwiseLoss(late))
    """

    paper = "khattab2020colbert"
    config_keys = ["temperature"]

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1.0,
        similarity_fct: Callable[..., Tensor] | None = None,
        mini_batch_size: int | None = None,
        smooth: float | None = None,
    ) -> None:
        super().__init__(model, similarity_fct, mini_batch_size=mini_batch_size, smooth=smooth)
        if not temperature > 0:
            raise InputError(f"temperature: expected a positive number, got {temperature}")
        self.temperature = temperature

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Loss of packed token vectors: queries, positives, then negatives."""
        del labels
        self._expect_columns(embeddings, "(query, positive) or (query, positive, negative, ...)", least=2)
        return self._hardest(self.scores(embeddings[0], embeddings[1:]))

    def _hardest(self, scores: Tensor) -> Tensor:
        own = torch.arange(len(scores), device=scores.device)
        positive = scores[own, own]
        others = torch.ones_like(scores, dtype=torch.bool)
        others[own, own] = False
        hardest = scores.masked_fill(~others, -torch.inf).amax(dim=1)
        return F.softplus((hardest - positive) / self.temperature).mean()

    def negatives_per_query(self, batch_size: int, columns: int) -> int | None:
        """Count the documents that the hardest is taken from."""
        return batch_size * (columns - 1) - 1


class MultiVectorHardNegativesLoss(MultiVectorPairwiseLoss):
    """`softplus((negative - positive) / temperature)` over a query's own negatives, and a term over the batch.

    Args:
        model: The encoder.
        temperature: Divides differences of scores, and the scores of the batch's cross-entropy.
        in_batch_term_weight: Share of the batch's term, between 0 and 1.
        in_batch: "softmax": cross-entropy of each positive among all positives; "hardest": the hardest of them.
        similarity_fct: As in `MultiVectorPairwiseLoss`.
        mini_batch_size, smooth: As in `MultiVectorPairwiseLoss`.

    Raises:
        InputError: A number is out of its range, or `in_batch` is neither.

    Source:
        ColbertNegativeCELoss and ColbertPairwiseNegativeCELoss of colpali-engine 0.3.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "good": pages[1:], "bad": pages[:1]})
        >>> trainer = MultiVectorEncoderTrainer(model=late, train_dataset=rows, loss=MultiVectorHardNegativesLoss(late))
    """

    config_keys = ["temperature", "in_batch_term_weight", "in_batch"]

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 1.0,
        in_batch_term_weight: float = 0.5,
        in_batch: str = "softmax",
        similarity_fct: Callable[..., Tensor] | None = None,
        mini_batch_size: int | None = None,
        smooth: float | None = None,
    ) -> None:
        options: dict[str, Any] = {"mini_batch_size": mini_batch_size, "smooth": smooth}
        super().__init__(model, temperature=temperature, similarity_fct=similarity_fct, **options)
        if not 0 <= in_batch_term_weight <= 1:
            raise InputError(f"in_batch_term_weight: expected a share in [0, 1], got {in_batch_term_weight}")
        if in_batch not in ("softmax", "hardest"):
            raise InputError(f'in_batch: expected "softmax" or "hardest", got {in_batch!r}')
        self.in_batch_term_weight = in_batch_term_weight
        self.in_batch = in_batch

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Loss of packed token vectors: queries, positives, then at least one column of negatives."""
        del labels
        self._expect_columns(embeddings, "(query, positive, negative, ...)", least=3)
        queries, positives = embeddings[0], embeddings[1]
        own = self.own_scores(queries, embeddings[1:])
        pairs = F.softplus((own[:, 1:] - own[:, :1]) / self.temperature).mean()
        if not self.in_batch_term_weight:
            return pairs
        scores = self.scores(queries, [positives])
        if self.in_batch == "hardest":
            among = self._hardest(scores)
        else:
            among = F.cross_entropy(scores / self.temperature, torch.arange(len(scores), device=scores.device))
        return (1 - self.in_batch_term_weight) * pairs + self.in_batch_term_weight * among

    def negatives_per_query(self, batch_size: int, columns: int) -> int | None:
        """A query's own negatives, and the positives of the others."""
        return columns - 2 + (batch_size - 1 if self.in_batch_term_weight else 0)
