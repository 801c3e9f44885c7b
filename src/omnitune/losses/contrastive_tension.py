"""A model and a copy of it that trains apart should agree on equal texts: no labels, no pairs needed.

The copy belongs to the loss: it starts as the model is, has parameters of its own, and is saved with the checkpoint.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError
from omnitune.losses.base import Loss, described
from omnitune.losses.strategies import Strategy
from omnitune.ops.similarity import cos_sim, pairwise_dot_score
from omnitune.types import Column, Embeddings, Encodes, Features, Labels, Objective


class _WithCopy(Loss):
    """Base of losses that train a copy of the model beside it."""

    paper = "carlsson2021semantic"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.copy = copy.deepcopy(model)
        self._copy_strategy = Strategy()

    def _by_copy(self, column: Column | Features) -> Embeddings:
        """The copy's embeddings of a column `(rows, dim)`."""
        self.copy.train(self.model.training)
        self._copy_strategy.activation_memory = self.strategy.activation_memory
        [embeddings] = self._copy_strategy.embed(cast(Encodes, self.copy.engine), [column])
        return embeddings


class ContrastiveTensionLoss(_WithCopy):
    """Loss over two input columns: the dot product is large for rows of equal texts and small for others.

    The copy embeds the first column, the model the second. Labels are 1 for equal rows and 0 for others; without any,
    the texts say it.

    Args:
        model: The encoder.

    Raises:
        InputError: In training, there are no labels and the columns hold something other than texts.

    Source:
        Carlsson et al. 2021, section 3 (openreview.net/forum?id=Ov_sMNau-PF).

    Example:
        >>> rows = Dataset.from_dict({"a": ["pump", "pump"], "b": ["pump", "oven"]})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=ContrastiveTensionLoss(model))
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """The copy's embeddings of the first column, the model's of the others."""
        return [self._by_copy(columns[0]), *super().embed(columns[1:], engine)]

    def targets(self, columns: Sequence[Column | Features], labels: Labels | None) -> Tensor | None:
        """The labels, or which rows hold equal texts `(rows,)`.

        Raises:
            InputError: There are no labels, and the columns hold something other than texts.
        """
        if labels is not None or len(columns) != 2:
            return super().targets(columns, labels)
        first, second = (_texts(column) for column in columns)
        if first is None or second is None:
            raise InputError(
                f"{type(self).__name__}: expected labels, or two columns of texts that say which rows are equal, got "
                "neither; add a label column with 1 for equal rows and 0 for others"
            )
        return torch.tensor([float(a == b) for a, b in zip(first, second, strict=True)])

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Sum over rows of the logistic loss of the dot products of two `(rows, dim)` columns."""
        self._expect_columns(embeddings, "(input, input)", least=2, most=2)
        equal = self._expect_one_label_per_row(labels, "label 1 or 0", len(embeddings[0]))
        scores = pairwise_dot_score(embeddings[0].values, embeddings[1].values)
        return F.binary_cross_entropy_with_logits(scores, equal.to(scores), reduction="sum")


class ContrastiveTensionLossInBatchNegatives(_WithCopy):
    """Loss over one input column: the copy's embedding of a text is closest to the model's of the same text.

    The scale is a parameter that trains with the loss.

    Args:
        model: The encoder.
        scale: What similarities are multiplied by at first.
        similarity_fct: `(n, dim), (m, dim) -> (n, m)`, higher is closer.

    Source:
        Carlsson et al. 2021 (openreview.net/forum?id=Ov_sMNau-PF), with the in-batch softmax in both directions of
        Radford et al. 2021 (arXiv:2103.00020).

    Example:
        >>> rows = Dataset.from_dict({"text": pages})
        >>> loss = ContrastiveTensionLossInBatchNegatives(model)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
    ) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """The copy's embeddings of the first column, then the model's."""
        return [self._by_copy(columns[0]), *super().embed(columns[:1], engine)]

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Symmetric contrastive loss of two embeddings `(rows, dim)` of the same texts."""
        del labels
        scores = self.similarity_fct(embeddings[0].values, embeddings[1].values) * self.logit_scale.exp()
        own = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2

    def negatives_per_query(self, batch_size: int, columns: int) -> int:
        """The other texts of the batch."""
        del columns
        return batch_size - 1

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card, with the scale as it is now."""
        return {"scale": self.logit_scale.exp().item(), "similarity_fct": described(self.similarity_fct)}


def _texts(column: Column | Features) -> list[Any] | None:
    """List what is equal for equal rows: texts, or of ready features the token ids; None for other items."""
    if isinstance(column, Column):
        return list(column.items) if all(isinstance(item, str) for item in column.items) else None
    ids: Tensor = column["input_ids"]
    mask = column.get("attention_mask", torch.ones_like(ids)).bool()
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
