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
    """`MultipleNegativesRankingLoss` on dot products with the scale 1.

    It is the inner loss of `SpladeLoss` or `CSRLoss`; used alone, vectors would become dense.

    Args:
        model: The encoder.
        scale: As in `MultipleNegativesRankingLoss`, as are the others.

    Raises:
        InputError: As in `MultipleNegativesRankingLoss`; or it is used alone.

    Source:
        van den Oord et al. 2018, eq. 4 (arXiv:1807.03748).

    Example:
        >>> from omnitune.sparse_encoder.losses import SpladeLoss
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> loss = SpladeLoss(sparse, SparseMultipleNegativesRankingLoss(sparse), 3e-5, 5e-5)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

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
    """`MarginMSELoss` of a sparse encoder.

    It is the inner loss of `SpladeLoss` or `CSRLoss`; used alone, vectors would become dense.

    Args:
        model: The encoder.
        similarity_fct: `(n, dim), (n, dim) -> (n,)`, higher is closer.

    Raises:
        InputError: It is used alone.

    Source:
        Hofstätter et al. 2020, eq. 1 (arXiv:2010.02666).

    Example:
        >>> from omnitune.sparse_encoder.losses import SpladeLoss
        >>> texts = {"query": ["How hot?"], "good": pages[1:], "bad": pages[:1]}
        >>> rows = Dataset.from_dict({**texts, "score": [10.3]})  # a teacher scores good 6.1 and bad -4.2
        >>> loss = SpladeLoss(sparse, SparseMarginMSELoss(sparse), 3e-5, 5e-5)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

    def __init__(
        self, model: nn.Module, similarity_fct: Callable[[Tensor, Tensor], Tensor] = pairwise_dot_score
    ) -> None:
        super().__init__(model, similarity_fct)


class SparseDistillKLDivLoss(Inner, DistillKLDivLoss):
    """`DistillKLDivLoss` of a sparse encoder, with the temperature 2.

    It is the inner loss of `SpladeLoss` or `CSRLoss`; used alone, vectors would become dense.

    Args:
        model: The encoder.
        similarity_fct: `(n, dim), (n, dim) -> (n,)`, higher is closer.
        temperature, student_temperature, teacher_temperature: As in `DistillKLDivLoss`.

    Raises:
        InputError: A temperature is not positive and finite; or it is used alone.

    Source:
        Lin et al. 2020, eq. 5 (arXiv:2010.11386).

    Example:
        >>> from omnitune.sparse_encoder.losses import SpladeLoss
        >>> texts = {"query": ["How hot?"], "good": pages[1:], "bad": pages[:1]}
        >>> rows = Dataset.from_dict({**texts, "scores": [[6.1, -4.2]]})  # a teacher's, of good and bad
        >>> loss = SpladeLoss(sparse, SparseDistillKLDivLoss(sparse), 3e-5, 5e-5)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

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
    """`TripletLoss` of a sparse encoder.

    It is the inner loss of `SpladeLoss` or `CSRLoss`; used alone, vectors would become dense.

    Args:
        model: The encoder.
        distance_metric, triplet_margin: As in `TripletLoss`.

    Raises:
        InputError: It is used alone.

    Source:
        Schroff et al. 2015, eq. 1 (arXiv:1503.03832), with the distance in place of its square.

    Example:
        >>> from omnitune.sparse_encoder.losses import SpladeLoss
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "good": pages[1:], "bad": pages[:1]})
        >>> loss = SpladeLoss(sparse, SparseTripletLoss(sparse), 3e-5, 5e-5)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Callable[[Tensor, Tensor], Tensor] = TripletDistanceMetric.EUCLIDEAN,
        triplet_margin: float = 5,
    ) -> None:
        super().__init__(model, distance_metric, triplet_margin)


class SparseCosineSimilarityLoss(Inner, CosineSimilarityLoss):
    """`CosineSimilarityLoss` of a sparse encoder.

    It is the inner loss of `SpladeLoss` or `CSRLoss`; used alone, vectors would become dense.
    It trains cosines and warns where the model compares otherwise: set `model.similarity_fn_name = "cosine"`.

    Args:
        model: The encoder.
        loss_fct, cos_score_transformation: As in `CosineSimilarityLoss`.

    Raises:
        InputError: It is used alone.

    Source:
        Reimers and Gurevych 2019, section 3, the regression objective (arXiv:1908.10084).

    Example:
        >>> from omnitune.sparse_encoder.losses import SpladeLoss
        >>> rows = Dataset.from_dict({"a": ["pump", "pump"], "b": ["a pump", "an oven"], "score": [0.9, 0.1]})
        >>> loss = SpladeLoss(sparse, SparseCosineSimilarityLoss(sparse), 3e-5, 5e-5)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fct: nn.Module | None = None,
        cos_score_transformation: nn.Module | None = None,
    ) -> None:
        super().__init__(model, loss_fct or nn.MSELoss(), cos_score_transformation or nn.Identity())
        _said(model, self)


class SparseCoSENTLoss(Inner, CoSENTLoss):
    """`CoSENTLoss` of a sparse encoder.

    It is the inner loss of `SpladeLoss` or `CSRLoss`; used alone, vectors would become dense.
    It trains cosines and warns where the model compares otherwise: set `model.similarity_fn_name = "cosine"`.

    Args:
        model: The encoder.
        scale, similarity_fct: As in `CoSENTLoss`.

    Raises:
        InputError: It is used alone.

    Source:
        Huang et al. 2024, CoSENT, eq. 6 (doi:10.1109/TASLP.2024.3402087).

    Example:
        >>> from omnitune.sparse_encoder.losses import SpladeLoss
        >>> rows = Dataset.from_dict({"a": ["pump", "pump"], "b": ["a pump", "an oven"], "score": [0.9, 0.1]})
        >>> loss = SpladeLoss(sparse, SparseCoSENTLoss(sparse), 3e-5, 5e-5)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

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
    """`AnglELoss` of a sparse encoder.

    It is the inner loss of `SpladeLoss` or `CSRLoss`; used alone, vectors would become dense.
    It trains cosines and warns where the model compares otherwise: set `model.similarity_fn_name = "cosine"`.

    Args:
        model: The encoder.
        scale: Inverse temperature.

    Raises:
        InputError: It is used alone.

    Source:
        Li and Li 2024, AoE (aclanthology.org/2024.acl-long.101).

    Example:
        >>> from omnitune.sparse_encoder.losses import SpladeLoss
        >>> rows = Dataset.from_dict({"a": ["pump", "pump"], "b": ["a pump", "an oven"], "score": [0.9, 0.1]})
        >>> loss = SpladeLoss(sparse, SparseAnglELoss(sparse), 3e-5, 5e-5)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

    def __init__(self, model: nn.Module, scale: float = 20.0) -> None:
        super().__init__(model, scale)
        _said(model, self)


class SparseMSELoss(MSELoss):
    """`MSELoss` towards the vectors of a teacher, which are sparse themselves, so it may be used alone.

    Args:
        model: The student.

    Source:
        Reimers and Gurevych 2020, eq. 1 (arXiv:2004.09813).

    Example:
        >>> teacher = sparse.encode(pages, convert_to_sparse_tensor=False)  # as a rule, of a stronger model
        >>> rows = Dataset.from_dict({"text": pages, "label": teacher.tolist()})
        >>> loss = SparseMSELoss(sparse)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
