"""The dense losses with the defaults of sparse encoders: dot products, no temperature."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.cosent import AnglELoss, CoSENTLoss
from omnitune.losses.cosine_similarity import CosineSimilarityLoss
from omnitune.losses.distillation import DistillKLDivLoss, MarginMSELoss, MSELoss
from omnitune.losses.multiple_negatives import MultipleNegativesRankingLoss
from omnitune.losses.triplet import TripletDistanceMetric, TripletLoss
from omnitune.ops.objectives import Direction, HardnessMode, PartitionMode
from omnitune.ops.similarity import dot_score, pairwise_cos_sim, pairwise_dot_score
from omnitune.types import Column, Features, Labels

logger = logging.getLogger(__name__)


class Inner:
    """A loss that leaves vectors dense, so that it is of use inside `SpladeLoss` or `CSRLoss` alone."""

    def forward(self, sentence_features: Sequence[Column | Features], labels: Labels | None = None) -> Any:
        """Refuse to be used alone.

        Raises:
            InputError: Always.
        """
        del sentence_features, labels
        name = type(self).__name__
        raise InputError(
            f"{name}: expected to be inside SpladeLoss or CSRLoss, without which vectors become dense; got used alone. "
            f"Write SpladeLoss(model, {name}(model), document_regularizer_weight=3e-5, query_regularizer_weight=5e-5)"
        )


def _said(model: Any, loss: object) -> None:
    """Warn where a loss trains another similarity than the model computes."""
    if getattr(model, "similarity_fn_name", "cosine") != "cosine":
        logger.warning(
            "%s trains cosines, and the model compares by %s: set model.similarity_fn_name = 'cosine'.",
            type(loss).__name__, model.similarity_fn_name,
        )  # fmt: skip


class SparseMultipleNegativesRankingLoss(Inner, MultipleNegativesRankingLoss):
    """`MultipleNegativesRankingLoss` on dot products with the scale 1; its arguments are the same."""

    def __init__(
        self,
        model: nn.Module,
        scale: float = 1.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = dot_score,
        gather_across_devices: bool = False,
        directions: tuple[Direction, ...] = ("query_to_doc",),
        partition_mode: PartitionMode = "joint",
        hardness_mode: HardnessMode | None = None,
        hardness_strength: float = 0.0,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            gather_across_devices,
            directions,
            partition_mode,
            hardness_mode,
            hardness_strength,
        )


class SparseMarginMSELoss(Inner, MarginMSELoss):
    """`MarginMSELoss`, as it is."""

    def __init__(
        self, model: nn.Module, similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_dot_score
    ) -> None:
        super().__init__(model, similarity_fct)


class SparseDistillKLDivLoss(Inner, DistillKLDivLoss):
    """`DistillKLDivLoss` with the temperature 2; its arguments are the same."""

    def __init__(
        self,
        model: nn.Module,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_dot_score,
        temperature: float = 2.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        super().__init__(model, similarity_fct, temperature, student_temperature, teacher_temperature)


class SparseTripletLoss(Inner, TripletLoss):
    """`TripletLoss`, as it is."""

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Callable[[Tensor, Tensor], Tensor] = TripletDistanceMetric.EUCLIDEAN,
        triplet_margin: float = 5,
    ) -> None:
        super().__init__(model, distance_metric, triplet_margin)


class SparseCosineSimilarityLoss(Inner, CosineSimilarityLoss):
    """`CosineSimilarityLoss`, as it is; the model's similarity stays what it is, with a warning unless it is cosine."""

    def __init__(
        self,
        model: nn.Module,
        loss_fct: nn.Module | None = None,
        cos_score_transformation: nn.Module | None = None,
    ) -> None:
        super().__init__(model, loss_fct or nn.MSELoss(), cos_score_transformation or nn.Identity())
        _said(model, self)


class SparseCoSENTLoss(Inner, CoSENTLoss):
    """`CoSENTLoss`, as it is; the model's similarity stays what it is, with a warning unless it is cosine."""

    def __init__(
        self,
        model: nn.Module,
        scale: float = 20.0,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_cos_sim,
    ) -> None:
        super().__init__(model, scale, similarity_fct)
        if similarity_fct is pairwise_cos_sim:
            _said(model, self)


class SparseAnglELoss(Inner, AnglELoss):
    """`AnglELoss`, as it is; the model's similarity stays what it is, with a warning unless it is cosine."""

    def __init__(self, model: nn.Module, scale: float = 20.0) -> None:
        super().__init__(model, scale)
        _said(model, self)


class SparseMSELoss(MSELoss):
    """`MSELoss` towards the vectors of a teacher, which are sparse themselves: it may be used alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
