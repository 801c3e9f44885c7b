"""Pairs with a score: their similarities should be in the order of their scores."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from omnitune.losses.base import Loss
from omnitune.ops.objectives import cosent
from omnitune.ops.similarity import pairwise_angle_sim, pairwise_cos_sim
from omnitune.types import Embeddings, Objective


class CoSENTLoss(Loss):
    """Ranking loss over two input columns and a score for each row.

    Args:
        model: The encoder.
        scale: Inverse temperature: similarities are multiplied by it.
        similarity_fct: `(n, dim), (n, dim) -> (n,)`, higher is closer.

    Source:
        Huang et al. 2024, CoSENT, eq. 6 (doi:10.1109/TASLP.2024.3402087).

    Example:
        >>> rows = Dataset.from_dict({"a": ["pump", "pump"], "b": ["a pump", "an oven"], "score": [0.9, 0.1]})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=CoSENTLoss(model))
    """

    paper = "huang2024cosent"
    lists = "rows"
    config_keys = ["scale", "similarity_fct"]

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_cos_sim,
    ) -> None:
        super().__init__(model)
        self.scale = scale
        self.similarity_fct = similarity_fct

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Ranking loss of two `(rows, dim)` columns and labels `(rows,)`, of which only the order matters."""
        self._expect_columns(embeddings, "(input, input)", least=2, most=2)
        scores = self._expect_one_label_per_row(labels, "similarity score", len(embeddings[0]))
        return cosent(self.similarity_fct(embeddings[0].values, embeddings[1].values), scores, self.scale)


class AnglELoss(CoSENTLoss):
    """`CoSENTLoss` on the similarity of angles; also takes (query, positive, negative, ...) columns.

    With more than two columns, every (query, positive) should be closer than every (query, negative); labels may then
    be left out, or say in [0, 1] how good each positive is (its negatives get one minus that).

    Args:
        model: The encoder.
        scale: Inverse temperature.

    Source:
        Li and Li 2024, AoE (aclanthology.org/2024.acl-long.101).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot is it?"], "good": pages[1:], "bad": pages[:1]})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=AnglELoss(model))
    """

    paper = "li2024aoe"

    def __init__(self, model: nn.Module, scale: float = 20.0) -> None:
        super().__init__(model, scale, pairwise_angle_sim)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Ranking loss of two `(rows, dim)` columns with labels, or of queries, positives and negatives."""
        if len(embeddings) <= 2:
            return super().objective(embeddings, labels)
        queries, *documents = embeddings
        good = torch.ones(len(queries), device=queries.values.device) if labels is None else labels
        good = self._expect_one_label_per_row(good, "similarity score", len(queries))
        pairs = [Embeddings.cat([queries] * len(documents)), Embeddings.cat(documents)]
        return super().objective(pairs, torch.cat([good, *[1 - good] * (len(documents) - 1)]))
