"""What to optimise: each loss is one objective on embeddings, times a strategy that obtains them."""

from omnitune.losses.base import Loss
from omnitune.losses.cosent import AnglELoss, CoSENTLoss
from omnitune.losses.cosine_similarity import CosineSimilarityLoss
from omnitune.losses.distillation import MarginMSELoss, MSELoss
from omnitune.losses.multiple_negatives import (
    CachedMultipleNegativesRankingLoss,
    CachedMultipleNegativesSymmetricRankingLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from omnitune.losses.strategies import Strategy
from omnitune.losses.triplet import TripletDistanceMetric, TripletLoss
from omnitune.losses.wrappers import MatryoshkaLoss

__all__ = [
    "AnglELoss",
    "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "CoSENTLoss",
    "CosineSimilarityLoss",
    "Loss",
    "MSELoss",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "Strategy",
    "TripletDistanceMetric",
    "TripletLoss",
]
