"""A positive document against negatives: by a teacher's margins, or by the batch's other documents."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.losses.cross_encoder.base import PairLoss
from omnitune.losses.distillation import teacher_margins
from omnitune.losses.strategies import Strategy
from omnitune.ops.objectives import in_one_format
from omnitune.types import Column, Embeddings, Encodes, Features, Objective


class MarginMSELoss(PairLoss):
    """Squared error between score differences and a teacher's, over the columns (query, positive, negative, ...).

    Labels say how much better the teacher scores the positive than each negative, `(rows, negatives)`, or `(rows,)`
    with one negative; or they are its scores of the positive and each negative, `(rows, 1 + negatives)`.

    Args:
        model: The cross encoder, with one label.
        activation_fn: Applied to the scores.
        **kwargs: For `torch.nn.MSELoss`.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        Hofstätter et al. 2020, eq. 1 (arXiv:2010.02666).

    Example:
        >>> texts = {"query": ["How hot?"], "good": pages[1:], "bad": pages[:1]}
        >>> rows = Dataset.from_dict({**texts, "scores": [[6.1, -4.2]]})  # a teacher's, of good and bad
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=MarginMSELoss(reranker))
    """

    paper = "hofstatter2021improving"

    columns = "(query, positive, negative) or (query, positive, negative, ..., negative)"
    least = 3
    most = 1 << 30

    def __init__(
        self,
        model: nn.Module,
        activation_fn: nn.Module = nn.Identity(),  # noqa: B008 - stateless; ST's default
        **kwargs: Any,
    ) -> None:
        super().__init__(model, activation_fn)
        self.loss_fct = nn.MSELoss(**kwargs)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Margin regression of scores `(rows, 1)` of the positive and each negative."""
        scores = self.activation_fn(torch.cat([e.values for e in embeddings], dim=1))
        given = self._expect_labels(labels, "the teacher's margins or scores").to(scores.device)
        margins = teacher_margins(given.detach(), (len(scores), len(embeddings) - 1), type(self).__name__)
        loss: Tensor = self.loss_fct(*in_one_format(scores[:, :1] - scores[:, 1:], margins.float()))
        return loss


class MultipleNegativesRankingLoss(PairLoss):
    """Contrastive loss over (query, positive) or (query, positive, negative, ..., negative) columns, without labels.

    Each query's positive competes with its own negatives and with documents of other rows, drawn at random: a pair is
    a forward, so not all of them.

    Args:
        model: The cross encoder, with one label.
        num_negatives: Documents of other rows that are drawn for each query; None takes all of them.
        scale: Inverse temperature: scores are multiplied by it after the activation. 0 leaves them.
        activation_fn: Applied to the scores; None for nothing.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        van den Oord et al. 2018, eq. 4 (arXiv:1807.03748).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> loss = MultipleNegativesRankingLoss(reranker)
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=loss)
    """

    columns = "(query, positive) or (query, positive, negative, ..., negative)"
    most = 1 << 30
    config_keys = ["scale", "num_negatives", "activation_fn"]

    def __init__(
        self,
        model: nn.Module,
        num_negatives: int | None = 4,
        scale: float = 10.0,
        activation_fn: nn.Module | None = nn.Sigmoid(),  # noqa: B008 - stateless; ST's default
    ) -> None:
        super().__init__(model, activation_fn)
        self.num_negatives = num_negatives
        self.scale = scale

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """Scores of each query with its positive, the drawn documents, and its own negatives, `(rows, 1)` each."""
        queries, *documents = cast(Sequence[Column], columns)
        drawn = self._draw(len(queries), len(documents))
        candidates = [item for column in documents for item in column.items]
        others = [replace(documents[0], items=[candidates[i] for i in chosen]) for chosen in drawn.T.tolist()]
        return super().embed([queries, documents[0], *others, *documents[1:]], engine)

    def _draw(self, rows: int, columns: int) -> Tensor:
        """For each query, places of documents of other rows among all documents, column after column."""
        foreign = ~torch.eye(rows, dtype=torch.bool).repeat(1, columns)
        if self.num_negatives is not None and self.num_negatives < (rows - 1) * columns:
            return torch.multinomial(foreign.float(), self.num_negatives)
        return torch.arange(rows * columns).repeat(rows, 1)[foreign].reshape(rows, -1)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Cross-entropy of the positive, which is the first of the candidates' scores `(rows, 1)`."""
        del labels
        scores = self.activation_fn(torch.cat([e.values for e in embeddings], dim=1))
        scores = scores * self.scale if self.scale else scores
        return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))

    def negatives_per_query(self, batch_size: int, columns: int) -> int | None:
        """Count the documents that are drawn, and the query's own."""
        foreign = (batch_size - 1) * (columns - 1)
        return (foreign if self.num_negatives is None else min(self.num_negatives, foreign)) + columns - 2


class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` in mini-batches, so that memory does not grow with the number of negatives.

    Args:
        model: The cross encoder, with one label.
        num_negatives: Documents of other rows that are drawn for each query; None takes all of them.
        scale: Inverse temperature.
        activation_fn: Applied to the scores; None for nothing.
        mini_batch_size: Pairs a mini-batch.
        show_progress_bar: Whether to show the mini-batches of every step.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        Gao et al. 2021 (arXiv:2101.06983).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> loss = CachedMultipleNegativesRankingLoss(reranker, num_negatives=8, mini_batch_size=32)
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=loss)
    """

    config_keys = [*MultipleNegativesRankingLoss.config_keys, "mini_batch_size"]

    def __init__(
        self,
        model: nn.Module,
        num_negatives: int | None = 4,
        scale: float = 10.0,
        activation_fn: nn.Module | None = nn.Sigmoid(),  # noqa: B008 - stateless; ST's default
        mini_batch_size: int = 32,
        show_progress_bar: bool = False,
    ) -> None:
        super().__init__(model, num_negatives, scale, activation_fn)
        self.mini_batch_size = mini_batch_size
        self.strategy = Strategy(mini_batch_size, show_progress_bar=show_progress_bar)
