"""Losses of late-interaction encoders: four of Sentence Transformers', and two after colpali-engine's."""

from omnitune.losses.multi_vector.distillation import MultiVectorDistillKLDivLoss, MultiVectorMarginMSELoss
from omnitune.losses.multi_vector.multiple_negatives import (
    CachedMultiVectorMultipleNegativesRankingLoss,
    MultiVectorMultipleNegativesRankingLoss,
)
from omnitune.losses.multi_vector.pairwise import MultiVectorHardNegativesLoss, MultiVectorPairwiseLoss

__all__ = [
    "CachedMultiVectorMultipleNegativesRankingLoss",
    "MultiVectorDistillKLDivLoss",
    "MultiVectorHardNegativesLoss",
    "MultiVectorMarginMSELoss",
    "MultiVectorMultipleNegativesRankingLoss",
    "MultiVectorPairwiseLoss",
]
