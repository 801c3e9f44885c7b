"""Losses of cross encoders: objectives on the scores of pairs."""

from omnitune.losses.cross_encoder.base import ListLoss, PairLoss
from omnitune.losses.cross_encoder.lambda_loss import (
    BaseWeightingScheme,
    LambdaLoss,
    LambdaRankScheme,
    NDCGLoss1Scheme,
    NDCGLoss2PPScheme,
    NDCGLoss2Scheme,
    NoWeightingScheme,
    RankNetLoss,
)
from omnitune.losses.cross_encoder.listwise import (
    ADRMSELoss,
    ListMLELoss,
    ListNetLoss,
    PListMLELambdaWeight,
    PListMLELoss,
)
from omnitune.losses.cross_encoder.pairwise import (
    CachedMultipleNegativesRankingLoss,
    MarginMSELoss,
    MultipleNegativesRankingLoss,
)
from omnitune.losses.cross_encoder.pointwise import BinaryCrossEntropyLoss, CrossEntropyLoss, MSELoss

__all__ = [
    "ADRMSELoss",
    "BaseWeightingScheme",
    "BinaryCrossEntropyLoss",
    "CachedMultipleNegativesRankingLoss",
    "CrossEntropyLoss",
    "LambdaLoss",
    "LambdaRankScheme",
    "ListLoss",
    "ListMLELoss",
    "ListNetLoss",
    "MSELoss",
    "MarginMSELoss",
    "MultipleNegativesRankingLoss",
    "NDCGLoss1Scheme",
    "NDCGLoss2PPScheme",
    "NDCGLoss2Scheme",
    "NoWeightingScheme",
    "PListMLELambdaWeight",
    "PListMLELoss",
    "PairLoss",
    "RankNetLoss",
]
