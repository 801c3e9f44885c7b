"""A teacher's numbers as labels: its embeddings, or its scores."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError, ShapeError
from omnitune.losses.base import Loss, described
from omnitune.ops.objectives import margin_mse
from omnitune.ops.similarity import pairwise_dot_score
from omnitune.types import Embeddings, Objective


class MSELoss(Loss):
    """Squared error between embeddings and a teacher's, over any number of input columns.

    Labels are `(rows, dim)`, the same for every column, or `(rows, columns, dim)`.

    Args:
        model: The student.
        projection_dim: The teacher's dimension, where it differs from the student's: a linear layer of the loss,
            trained with it, maps one to the other. None for none.

    Source:
        Reimers and Gurevych 2020, eq. 1 (arXiv:2004.09813).
    """

    def __init__(self, model: nn.Module, projection_dim: int | None = None) -> None:
        super().__init__(model)
        self.projection_dim = projection_dim
        self.projection: nn.Linear | None = None
        if projection_dim is not None:
            width = cast(Callable[[], int], model.get_embedding_dimension)()
            self.projection = nn.Linear(width, projection_dim, device=next(model.parameters()).device)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Mean over columns of the squared error of `(rows, dim)` embeddings."""
        return self._error(embeddings, self._teacher(embeddings, labels))

    def objective_at(
        self, embeddings: Sequence[Embeddings], labels: Tensor | None, dims: Sequence[int]
    ) -> list[Objective]:
        """The loss of truncated embeddings against the teacher's, truncated and not rescaled."""
        if self.projection is not None:
            raise InputError(
                "MatryoshkaLoss: expected MSELoss without projection_dim, which maps whole embeddings only; "
                "reduce the teacher's embeddings to the student's dimension instead"
            )
        teacher = self._teacher(embeddings, labels)
        return [self._error([e.truncate(d) for e in embeddings], teacher[..., :d]) for d in dims]

    def _teacher(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Tensor:
        """What each row of each column should be `(rows, columns, dim)`."""
        self._expect_columns(embeddings, "(input,) or (input, input, ...)", least=1)
        given = self._expect_labels(labels, "the teacher's embeddings").detach()
        rows, width = embeddings[0].values.shape
        expected = (rows, len(embeddings), self.projection_dim or width)
        teacher = given[:, None].expand(-1, len(embeddings), -1) if given.dim() == 2 else given
        if tuple(teacher.shape) != expected:
            raise ShapeError(
                f"MSELoss: expected labels of shape {(expected[0], expected[2])} or {expected}, "
                f"got {tuple(given.shape)}; a teacher of another dimension needs projection_dim"
            )
        return teacher

    def _error(self, embeddings: Sequence[Embeddings], teacher: Tensor) -> Tensor:
        student = torch.stack([e.values for e in embeddings], dim=1)
        projected = student if self.projection is None else self.projection(student)
        return F.mse_loss(projected, teacher.to(device=projected.device, dtype=projected.dtype))

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for the model card."""
        return {"projection_dim": self.projection_dim}

    @property
    def citation(self) -> str:
        """BibTeX of multilingual distillation."""
        return """@inproceedings{reimers2020making,
    title={Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation},
    author={Nils Reimers and Iryna Gurevych},
    booktitle={Proceedings of EMNLP 2020},
    year={2020},
    url={https://arxiv.org/abs/2004.09813}
}"""


def teacher_margins(given: Tensor, shape: tuple[int, int], loss: str) -> Tensor:
    """How much better a teacher scores each row's positive than each negative `(rows, negatives)`.

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
    """

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

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for the model card."""
        return {"similarity_fct": described(self.similarity_fct)}

    @property
    def citation(self) -> str:
        """BibTeX of margin distillation."""
        return """@misc{hofstatter2021improving,
    title={Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation},
    author={Sebastian Hofst{\\"a}tter and Sophia Althammer and Michael Schr{\\"o}der and others},
    year={2021},
    eprint={2010.02666},
    archivePrefix={arXiv}
}"""
