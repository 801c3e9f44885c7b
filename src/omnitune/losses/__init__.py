"""Losses: each is one objective on embeddings, times a strategy that obtains them."""

from typing import TYPE_CHECKING, Any

from omnitune.losses.adaptive_layer import AdaptiveLayerLoss, Matryoshka2dLoss
from omnitune.losses.base import Loss
from omnitune.losses.batch_triplet import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchHardTripletLossDistanceFunction,
    BatchSemiHardTripletLoss,
)
from omnitune.losses.contrastive import ContrastiveLoss, OnlineContrastiveLoss, SiameseDistanceMetric
from omnitune.losses.contrastive_tension import ContrastiveTensionLoss, ContrastiveTensionLossInBatchNegatives
from omnitune.losses.cosent import AnglELoss, CoSENTLoss
from omnitune.losses.cosine_similarity import CosineSimilarityLoss
from omnitune.losses.denoising import DenoisingAutoEncoderLoss
from omnitune.losses.distillation import DistillKLDivLoss, EmbedDistillLoss, MarginMSELoss, MSELoss
from omnitune.losses.guided import CachedGISTEmbedLoss, GISTEmbedLoss
from omnitune.losses.mega_batch import MegaBatchMarginLoss
from omnitune.losses.multiple_negatives import (
    CachedMultipleNegativesRankingLoss,
    CachedMultipleNegativesSymmetricRankingLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from omnitune.losses.regularization import GlobalOrthogonalRegularizationLoss
from omnitune.losses.softmax import SoftmaxLoss
from omnitune.losses.strategies import Strategy
from omnitune.losses.triplet import TripletDistanceMetric, TripletLoss
from omnitune.losses.wrappers import MatryoshkaLoss
from omnitune.renames import missing

__all__ = [
    "AdaptiveLayerLoss",
    "AnglELoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchHardTripletLossDistanceFunction",
    "BatchSemiHardTripletLoss",
    "CachedGISTEmbedLoss",
    "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "ContrastiveTensionLoss",
    "ContrastiveTensionLossInBatchNegatives",
    "CosineSimilarityLoss",
    "DenoisingAutoEncoderLoss",
    "DistillKLDivLoss",
    "EmbedDistillLoss",
    "GISTEmbedLoss",
    "GlobalOrthogonalRegularizationLoss",
    "Loss",
    "MSELoss",
    "MarginMSELoss",
    "Matryoshka2dLoss",
    "MatryoshkaLoss",
    "MegaBatchMarginLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "OnlineContrastiveLoss",
    "SiameseDistanceMetric",
    "SoftmaxLoss",
    "Strategy",
    "TripletDistanceMetric",
    "TripletLoss",
]

LEFT_OUT = {
    "ContrastiveTensionDataLoader": (
        "ContrastiveTensionLoss takes two columns of texts and finds the equal ones itself; make the rows with "
        "datasets.Dataset.from_dict"
    )
}
"""Names that are left out, and what takes their place."""

if not TYPE_CHECKING:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> Any:
        raise missing(f"module {__name__!r}", name, LEFT_OUT)
