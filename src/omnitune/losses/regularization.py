"""A regularizer: embeddings of different inputs spread over the sphere, whatever they mean."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.base import Loss
from omnitune.ops.similarity import cos_sim
from omnitune.types import Embeddings, Objective


class GlobalOrthogonalRegularizationLoss(Loss):
    """Regularizer: similarities within each input column should have the mean and second moment of random directions.

    Add it to another loss's objective, or give it a dataset of its own.

    Args:
        model: The encoder.
        similarity_fct: `(n, dim), (m, dim) -> (n, m)`.
        mean_weight: Weight of the squared mean similarity; None or 0 leaves it out.
        second_moment_weight: Weight of what the second moment exceeds `1 / dim` by; None or 0 leaves it out.
        aggregation: "mean" or "sum" over the columns.

    Raises:
        InputError: Both weights are 0, or `aggregation` is none of the above.

    Source:
        Zhang et al. 2017, eq. 5 (arXiv:1708.06320).

    Example:
        >>> rows = Dataset.from_dict({"text": pages})
        >>> loss = GlobalOrthogonalRegularizationLoss(model)
        >>> sorted(loss.compute_loss_from_embeddings([torch.eye(4)], None))
        ['gor_mean', 'gor_second_moment']
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    paper = "zhang2017learning"
    config_keys = ["similarity_fct", "mean_weight", "second_moment_weight", "aggregation"]

    def __init__(
        self,
        model: nn.Module,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        mean_weight: float | None = 1.0,
        second_moment_weight: float | None = 1.0,
        aggregation: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__(model)
        if not mean_weight and not second_moment_weight:
            raise InputError("mean_weight, second_moment_weight: expected at least one other than 0, got neither")
        if aggregation not in ("mean", "sum"):
            raise InputError(f'aggregation: expected "mean" or "sum", got {aggregation!r}')
        self.similarity_fct = similarity_fct
        self.mean_weight = mean_weight
        self.second_moment_weight = second_moment_weight
        self.aggregation = aggregation

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """The parts `gor_mean` and `gor_second_moment` of any number of columns `(rows, dim)`."""
        del labels
        self._expect_columns(embeddings, "(input,) or (input, input, ...)", least=1)
        moments = torch.stack([self._moments(e.values) for e in embeddings])
        mean, second = moments.mean(dim=0) if self.aggregation == "mean" else moments.sum(dim=0)
        parts = {"gor_mean": (self.mean_weight, mean), "gor_second_moment": (self.second_moment_weight, second)}
        return {name: weight * value for name, (weight, value) in parts.items() if weight}

    def _moments(self, values: Tensor) -> Tensor:
        """Squared mean, and excess of the second moment, of the similarities of different rows `(2,)`."""
        rows, dim = values.shape
        similarities = self.similarity_fct(values, values)
        similarities = similarities.masked_fill(torch.eye(rows, dtype=torch.bool, device=values.device), 0.0)
        pairs = max(rows * (rows - 1), 1)
        excess = torch.relu(similarities.square().sum() / pairs - 1.0 / dim)
        return torch.stack([(similarities.sum() / pairs).square(), excess])
