"""Pairs that are alike or not: alike ones close, others apart."""

import logging
from collections.abc import Callable, Sequence
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.losses.base import Loss
from omnitune.types import Embeddings, Objective

logger = logging.getLogger(__name__)


class SiameseDistanceMetric(Enum):
    """Distances between rows; a member is called like a function: `(n, dim), (n, dim) -> (n,)`.

    Example:
        >>> SiameseDistanceMetric.COSINE_DISTANCE(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([1.])
        >>> loss = losses.ContrastiveLoss(model, SiameseDistanceMetric.EUCLIDEAN, margin=1.0)
    """

    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"
    COSINE_DISTANCE = "cosine"

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of row i of `x` from row i of `y`, at least 0."""
        if self is SiameseDistanceMetric.COSINE_DISTANCE:
            return 1 - F.cosine_similarity(x, y)
        return F.pairwise_distance(x, y, p=2 if self is SiameseDistanceMetric.EUCLIDEAN else 1)


class ContrastiveLoss(Loss):
    """Loss over two input columns and labels: 1 for rows that are alike, 0 for others.

    Args:
        model: The encoder.
        distance_metric: A `SiameseDistanceMetric`, or any function `(n, dim), (n, dim) -> (n,)`.
        margin: Distance from which on rows that are not alike cost nothing.
        size_average: Mean over rows; False for the sum.

    Source:
        Hadsell et al. 2006, eq. 4 (doi:10.1109/CVPR.2006.100).

    Example:
        >>> rows = Dataset.from_dict({"a": ["pump", "pump"], "b": ["a pump", "an oven"], "label": [1, 0]})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=ContrastiveLoss(model))
    """

    paper = "hadsell2006dimensionality"
    lists = "rows"
    config_keys = ["distance_metric", "margin", "size_average"]

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Callable[[Tensor, Tensor], Tensor] = SiameseDistanceMetric.COSINE_DISTANCE,
        margin: float = 0.5,
        size_average: bool = True,
    ) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.margin = margin
        self.size_average = size_average
        self._labels_seen = False

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Contrastive loss of two `(rows, dim)` columns; a label between 0 and 1 weighs both sides."""
        distances, alike = self._distances(embeddings, labels)
        losses = alike * distances.square() + (1 - alike) * F.relu(self.margin - distances).square()
        return (losses.mean() if self.size_average else losses.sum()) / 2

    def _distances(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Distance of every pair and its label, both `(rows,)` float."""
        self._expect_columns(embeddings, "(input, input)", least=2, most=2)
        alike = self._expect_one_label_per_row(labels, "label 1 or 0", len(embeddings[0])).float()
        if not self._labels_seen:
            self._labels_seen = True
            if not torch.isin(alike, alike.new_tensor([0.0, 1.0])).all():
                logger.warning("%s: expected labels 0 or 1, got others too.", type(self).__name__)
        return self.distance_metric(embeddings[0].values, embeddings[1].values), alike


class OnlineContrastiveLoss(ContrastiveLoss):
    """`ContrastiveLoss` of the hard pairs of a batch alone, summed.

    Hard are alike pairs farther apart than the closest pair that is not, and others closer than the farthest that is.

    Args:
        model: The encoder.
        distance_metric: As in `ContrastiveLoss`.
        margin: As in `ContrastiveLoss`.

    Source:
        Hadsell et al. 2006, eq. 4 (doi:10.1109/CVPR.2006.100), for a pair; the hard pairs are Sentence Transformers'.

    Example:
        >>> rows = Dataset.from_dict({"a": ["pump", "pump"], "b": ["a pump", "an oven"], "label": [1, 0]})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=OnlineContrastiveLoss(model))
    """

    config_keys = ["distance_metric", "margin"]

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Callable[[Tensor, Tensor], Tensor] = SiameseDistanceMetric.COSINE_DISTANCE,
        margin: float = 0.5,
    ) -> None:
        super().__init__(model, distance_metric, margin)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Sum over the hard pairs of two `(rows, dim)` columns; pairs labelled neither 0 nor 1 are left out."""
        distances, alike = self._distances(embeddings, labels)
        positives, negatives = distances[alike == 1], distances[alike == 0]
        far = positives[positives > (negatives.min() if len(negatives) else positives.mean())]
        close = negatives[negatives < (positives.max() if len(positives) else negatives.mean())]
        return far.square().sum() + F.relu(self.margin - close).square().sum()
