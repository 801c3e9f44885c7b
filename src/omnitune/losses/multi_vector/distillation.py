"""Late interaction taught by a stronger scorer."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from omnitune.errors import ShapeError
from omnitune.losses.distillation import teacher_margins
from omnitune.losses.multi_vector.base import LateLoss
from omnitune.ops.objectives import kl_divergence, margin_mse, temperatures
from omnitune.types import Embeddings, Objective


class MultiVectorDistillKLDivLoss(LateLoss):
    """Divergence of the student's ranking of a query's documents from a teacher's, over (query, document, ...).

    Labels are the teacher's scores of each document `(rows, documents)`.

    Args:
        model: The student.
        similarity_fct: Score function, `colbert_kd_scores` by default.
        temperature: Divides scores before the softmax.
        student_temperature: The same for the student alone; by default `temperature`.
        teacher_temperature: The same for the teacher alone; by default `temperature`.
        mini_batch_size: Most items a mini-batch holds; None plans by cost alone.
        normalize_scores: Whether a query's scores are put between 0 and 1 first, the student's as the teacher's, so
            that sums over many tokens do not make the softmax a maximum.
        smooth: Temperature of a smooth maximum over document tokens; None takes the maximum.

    Raises:
        InputError: A temperature is not positive and finite, or `smooth` is asked of a function without a maximum.

    Source:
        Santhanam et al. 2022, ColBERTv2 (arXiv:2112.01488); `normalize_scores` as PyLate has it.

    Example:
        >>> texts = {"query": ["How hot?"], "good": pages[1:], "bad": pages[:1]}
        >>> rows = Dataset.from_dict({**texts, "scores": [[6.1, -4.2]]})  # a teacher's, of good and bad
        >>> loss = MultiVectorDistillKLDivLoss(late, normalize_scores=True)
        >>> trainer = MultiVectorEncoderTrainer(model=late, train_dataset=rows, loss=loss)
    """

    paper = "santhanam2022colbertv2"

    def __init__(
        self,
        model: nn.Module,
        *,
        similarity_fct: Callable[..., Tensor] | None = None,
        temperature: float = 1.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
        mini_batch_size: int | None = None,
        normalize_scores: bool = False,
        smooth: float | None = None,
    ) -> None:
        super().__init__(model, similarity_fct, mini_batch_size=mini_batch_size, smooth=smooth)
        self.temperature = temperature
        self.student_temperature, self.teacher_temperature = temperatures(
            temperature, student_temperature, teacher_temperature
        )
        self.normalize_scores = normalize_scores

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Divergence over the documents of each query, of packed token vectors."""
        # The softmax of a single document is 1 whatever its score.
        self._expect_columns(embeddings, "(query, document, document) or (query, document, document, ...)", least=3)
        scores = self.own_scores(embeddings[0], embeddings[1:])
        teacher = self._expect_labels(labels, "the teacher's scores").detach().to(scores.dtype)
        if teacher.shape != scores.shape:
            raise ShapeError(
                f"{type(self).__name__}: expected labels of shape {tuple(scores.shape)}, the teacher's score of every "
                f"document, got {tuple(teacher.shape)}"
            )
        if self.normalize_scores:
            scores, teacher = _between_0_and_1(scores), _between_0_and_1(teacher)
        divergence = kl_divergence(scores / self.student_temperature, teacher / self.teacher_temperature)
        return divergence * self.student_temperature**2

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card; those that differ from their defaults, of some."""
        own = {"student_temperature": self.student_temperature, "teacher_temperature": self.teacher_temperature}
        shown = {name: value for name, value in own.items() if value != self.temperature}
        more = {"normalize_scores": True} if self.normalize_scores else {}
        config = super().get_config_dict()
        if self.similarity_fct is None:
            config["similarity_fct"] = "colbert_kd_scores"
        return {**config, "temperature": self.temperature, **shown, **more}


def _between_0_and_1(scores: Tensor) -> Tensor:
    low, high = scores.amin(dim=1, keepdim=True), scores.amax(dim=1, keepdim=True)
    return (scores - low) / (high - low).clamp(min=1e-8)


class MultiVectorMarginMSELoss(LateLoss):
    """Squared error between score differences and a teacher's, over (query, positive, negative, ...).

    Labels are those of `MarginMSELoss`: `(rows,)`, `(rows, negatives)` or `(rows, 1 + negatives)`.

    Args:
        model: The student.
        similarity_fct: Score function, `colbert_scores_pairwise` by default.
        mini_batch_size: Most items a mini-batch holds; None plans by cost alone.
        smooth: Temperature of a smooth maximum over document tokens; None takes the maximum.

    Raises:
        InputError: `smooth` is not positive, or asked of a `similarity_fct` without a maximum.

    Source:
        Hofstätter et al. 2020, eq. 1 (arXiv:2010.02666).

    Example:
        >>> texts = {"query": ["How hot?"], "good": pages[1:], "bad": pages[:1]}
        >>> rows = Dataset.from_dict({**texts, "score": [10.3]})  # a teacher scores good 6.1 and bad -4.2
        >>> trainer = MultiVectorEncoderTrainer(model=late, train_dataset=rows, loss=MultiVectorMarginMSELoss(late))
    """

    paper = "hofstatter2021improving"

    def __init__(
        self,
        model: nn.Module,
        *,
        similarity_fct: Callable[..., Tensor] | None = None,
        mini_batch_size: int | None = None,
        smooth: float | None = None,
    ) -> None:
        super().__init__(model, similarity_fct, mini_batch_size=mini_batch_size, smooth=smooth)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Margin regression of packed token vectors: queries, positives, then negatives."""
        self._expect_columns(embeddings, "(query, positive, negative) or (query, positive, negative, ...)", least=3)
        given = self._expect_labels(labels, "the teacher's margins or scores").detach()
        scores = self.own_scores(embeddings[0], embeddings[1:])
        margins = teacher_margins(given, (len(scores), scores.shape[1] - 1), type(self).__name__)
        return margin_mse(scores[:, 0], scores[:, 1:], margins)

    def _custom(self, queries: Embeddings, documents: Sequence[Embeddings]) -> Tensor:
        """The caller's function compares row by row, one column of documents at a time: `(rows, columns)`."""
        import torch

        assert self.similarity_fct is not None
        asking, columns = queries.pad(), [column.pad() for column in documents]
        made = [
            self.similarity_fct(asking.values, c.values, queries_mask=asking.mask, documents_mask=c.mask)
            for c in columns
        ]
        return torch.stack(made, dim=1)

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card."""
        config = super().get_config_dict()
        return config if self.similarity_fct is not None else {**config, "similarity_fct": "colbert_scores_pairwise"}
