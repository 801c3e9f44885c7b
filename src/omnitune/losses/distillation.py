"""A teacher's numbers as labels: its embeddings, or its scores."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import CheckpointError, InputError, ShapeError
from omnitune.io import writing
from omnitune.losses.base import Loss, described
from omnitune.ops.objectives import kl_divergence, margin_mse, temperatures
from omnitune.ops.similarity import pairwise_dot_score
from omnitune.types import Embeddings, Objective

DistanceMetric = Literal["mse", "l2", "cosine"]


class EmbedDistillLoss(Loss):
    """Distance between embeddings and a teacher's, over any number of input columns.

    Labels are `(rows, dim)`, the same for every column, or `(rows, columns, dim)`.

    Args:
        model: The student.
        distance_metric: "mse" the squared error, "l2" the Euclidean distance, "cosine" one minus the cosine.
        projection_dim: The teacher's dimension, where it differs from the student's: a linear layer of the loss,
            trained with it, maps one to the other. None for none.

    Raises:
        InputError: `distance_metric` is none of the above.

    Source:
        Kim et al. 2023 (arXiv:2301.12005).

    Example:
        >>> teacher = model.encode(pages, truncate_dim=128)  # of other dimensions than the student's
        >>> rows = Dataset.from_dict({"text": pages, "label": teacher})
        >>> loss = EmbedDistillLoss(model, projection_dim=128)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    paper = "kim2023embeddistill"
    config_keys = ["distance_metric", "projection_dim"]

    def __init__(
        self, model: nn.Module, distance_metric: DistanceMetric = "cosine", projection_dim: int | None = None
    ) -> None:
        super().__init__(model)
        if distance_metric not in get_args(DistanceMetric):
            raise InputError(f"distance_metric: expected one of {get_args(DistanceMetric)}, got {distance_metric!r}")
        self.distance_metric: DistanceMetric = distance_metric
        self.projection_dim = projection_dim
        self.projection: nn.Linear | None = None
        if projection_dim is not None:
            self.projection = self._layer(self._student_dim(), projection_dim)
        self.any_width = projection_dim is None

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Mean over columns of the distance of `(rows, dim)` embeddings."""
        return self._distance(embeddings, self._teacher(embeddings, labels))

    def objective_at(
        self, embeddings: Sequence[Embeddings], labels: Tensor | None, dims: Sequence[int]
    ) -> list[Objective]:
        """The loss of truncated embeddings against the teacher's, truncated and not rescaled."""
        teacher = self._teacher(embeddings, labels)
        return [self.value_of([e.truncate(d) for e in embeddings], teacher[..., :d]) for d in dims]

    def save_projection(self, path: str | PathLike[str]) -> None:
        """Write the projection to a safetensors file.

        Raises:
            InputError: There is none.
        """
        if self.projection is None:
            raise InputError("projection_dim: expected the teacher's dimension, got None, so there is no projection")
        with writing(Path(path)) as temporary:
            save_file(dict(self.projection.state_dict()), temporary)

    def load_projection(self, path: str | PathLike[str]) -> None:
        """Take over the projection of a safetensors file.

        Raises:
            ShapeError: It maps other dimensions than the student's, or than `projection_dim` says.
            CheckpointError: The file is damaged, or no projection.
        """
        try:
            stored = load_file(str(path))
            teacher_dim, student_dim = stored["weight"].shape
        except (SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"path: expected a whole projection, got {path} ({error}); save it again") from error
        if (student_dim, teacher_dim) != (self._student_dim(), self.projection_dim or teacher_dim):
            raise ShapeError(
                f"path: expected a projection from {self._student_dim()} to {self.projection_dim or 'any'} dimensions, "
                f"got one from {student_dim} to {teacher_dim}"
            )
        self.projection = self.projection or self._layer(student_dim, teacher_dim)
        self.projection_dim, self.any_width = teacher_dim, False
        self.projection.load_state_dict(stored)

    def _student_dim(self) -> int:
        return cast(Callable[[], int], self.model.get_embedding_dimension)()

    def _layer(self, student_dim: int, teacher_dim: int) -> nn.Linear:
        return nn.Linear(student_dim, teacher_dim, device=next(self.model.parameters()).device)

    def _teacher(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Tensor:
        """Targets of each row of each column `(rows, columns, dim)`."""
        self._expect_columns(embeddings, "(input,) or (input, input, ...)", least=1)
        given = self._expect_labels(labels, "the teacher's embeddings").detach()
        rows, width = embeddings[0].values.shape
        expected = (rows, len(embeddings), self.projection_dim or width)
        teacher = given[:, None].expand(-1, len(embeddings), -1) if given.dim() == 2 else given
        if tuple(teacher.shape) != expected:
            raise ShapeError(
                f"{type(self).__name__}: expected labels of shape {(expected[0], expected[2])} or {expected}, "
                f"got {tuple(given.shape)}; a teacher of another dimension needs projection_dim"
            )
        return teacher

    def _distance(self, embeddings: Sequence[Embeddings], teacher: Tensor) -> Tensor:
        student = torch.stack([e.values for e in embeddings], dim=1)
        projected = student if self.projection is None else self.projection(student)
        teacher = teacher.to(device=projected.device, dtype=projected.dtype)
        if self.distance_metric == "mse":
            return F.mse_loss(projected, teacher)
        if self.distance_metric == "l2":
            distances: Tensor = torch.linalg.vector_norm(projected - teacher, dim=-1)
            return distances.mean()
        return (1 - F.cosine_similarity(projected, teacher, dim=-1)).mean()


class MSELoss(EmbedDistillLoss):
    """`EmbedDistillLoss` with the squared error.

    Args:
        model: The student.
        projection_dim: As in `EmbedDistillLoss`.

    Source:
        Reimers and Gurevych 2020, eq. 1 (arXiv:2004.09813).

    Example:
        >>> teacher = model.encode(["an oven", "a pump"])  # as a rule, of a stronger model
        >>> rows = Dataset.from_dict({"en": ["an oven", "a pump"], "de": ["ein Ofen", "eine Pumpe"], "label": teacher})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=MSELoss(model))
    """

    paper = "reimers2020making"
    config_keys = ["projection_dim"]

    def __init__(self, model: nn.Module, projection_dim: int | None = None) -> None:
        super().__init__(model, "mse", projection_dim)


class DistillKLDivLoss(Loss):
    """Divergence of the student's ranking of candidates from a teacher's, over (query, document, document, ...).

    Labels are the teacher's scores of each document `(rows, documents)`.

    Args:
        model: The student.
        similarity_fct: `(n, dim), (n, dim) -> (n,)`, higher is closer.
        temperature: Divides scores before the softmax.
        student_temperature: The same for the student alone; by default `temperature`.
        teacher_temperature: The same for the teacher alone; by default `temperature`.

    Raises:
        InputError: A temperature is not positive and finite.

    Source:
        Lin et al. 2020, eq. 5 (arXiv:2010.11386); scaled by the student's squared temperature, Hinton et al. 2015.

    Example:
        >>> texts = {"query": ["How hot is it?"], "good": pages[1:], "bad": pages[:1]}
        >>> rows = Dataset.from_dict({**texts, "scores": [[0.9, 0.2]]})  # a teacher's, of good and bad
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=DistillKLDivLoss(model))
    """

    paper = "lin2020distilling"

    def __init__(
        self,
        model: nn.Module,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_dot_score,
        temperature: float = 1.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct
        self.temperature = temperature
        self.student_temperature, self.teacher_temperature = temperatures(
            temperature, student_temperature, teacher_temperature
        )

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Divergence over the candidates of each query, all `(rows, dim)`."""
        # The softmax of a single candidate is 1 whatever its score.
        self._expect_columns(embeddings, "(query, positive, negative) or (query, positive, negative, ...)", least=3)
        query, *documents = (e.values for e in embeddings)
        scores = torch.stack([self.similarity_fct(query, document) for document in documents], dim=1)
        teacher = self._expect_labels(labels, "the teacher's scores").detach()
        if teacher.shape != scores.shape:
            raise ShapeError(
                f"{type(self).__name__}: expected labels of shape {tuple(scores.shape)}, the teacher's score of every "
                f"document, got {tuple(teacher.shape)}"
            )
        return kl_divergence(
            scores / self.student_temperature, (teacher / self.teacher_temperature).to(scores.dtype)
        ) * (self.student_temperature**2)

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card."""
        own = {"student_temperature": self.student_temperature, "teacher_temperature": self.teacher_temperature}
        return {
            "similarity_fct": described(self.similarity_fct),
            "temperature": self.temperature,
            **{name: value for name, value in own.items() if value != self.temperature},
        }


def teacher_margins(given: Tensor, shape: tuple[int, int], loss: str) -> Tensor:
    """Margins by which a teacher scores each row's positive above each negative `(rows, negatives)`.

    Args:
        given: Labels of one of the forms that `MarginMSELoss` takes.
        shape: `(rows, negatives)`.
        loss: Name of the loss, for the error.

    Raises:
        ShapeError: They are of another shape.
    """
    rows, negatives = shape
    if given.shape == (rows, negatives + 1):
        return given[:, :1] - given[:, 1:]
    margins = given[:, None] if given.dim() == 1 else given
    if margins.shape != shape:
        raise ShapeError(
            f"{loss}: expected labels of shape {shape} (margins of the positive over each negative) or "
            f"{(rows, negatives + 1)} (scores of the positive and each negative), got {tuple(given.shape)}"
        )
    return margins


class MarginMSELoss(Loss):
    """Squared error between score differences and a teacher's, over the columns (query, positive, negative, ...).

    Labels say how much better the teacher scores the positive than each negative, `(rows, negatives)`, or `(rows,)`
    with one negative; or they are its scores of the positive and each negative, `(rows, 1 + negatives)`.

    Args:
        model: The student.
        similarity_fct: `(n, dim), (n, dim) -> (n,)`, higher is closer.

    Source:
        Hofstätter et al. 2020, eq. 1 (arXiv:2010.02666).

    Example:
        >>> texts = {"query": ["How hot is it?"], "good": pages[1:], "bad": pages[:1]}
        >>> rows = Dataset.from_dict({**texts, "score": [0.7]})  # a teacher scores good 0.9 and bad 0.2
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=MarginMSELoss(model))
    """

    paper = "hofstatter2021improving"
    lists = "rows"
    config_keys = ["similarity_fct"]

    def __init__(
        self, model: nn.Module, similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_dot_score
    ) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Margin regression of queries, positives and negatives `(rows, dim)`."""
        self._expect_columns(embeddings, "(query, positive, negative) or (query, positive, negative, ...)", least=3)
        query, positive, *negatives = (e.values for e in embeddings)
        scores = torch.stack([self.similarity_fct(query, n) for n in negatives], dim=1)
        given = self._expect_labels(labels, "the teacher's margins or scores").detach()
        margins = teacher_margins(given, (len(scores), len(negatives)), type(self).__name__)
        return margin_mse(self.similarity_fct(query, positive), scores, margins)
