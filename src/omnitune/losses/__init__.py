"""Losses: each is one objective on embeddings, times a strategy that obtains them."""

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
