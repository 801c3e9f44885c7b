"""Triplets found within a batch of labelled items: every one, or the hardest of each anchor."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.losses.base import Loss
from omnitune.ops.similarity import cos_sim
from omnitune.types import Embeddings, Objective

_SMALLEST = 1e-16


class BatchHardTripletLossDistanceFunction:
    """Distances between all rows of embeddings: `(rows, dim) -> (rows, rows)`.

    Example:
        >>> loss = losses.BatchHardTripletLoss(model, BatchHardTripletLossDistanceFunction.cosine_distance, margin=0.2)
        >>> BatchHardTripletLossDistanceFunction.cosine_distance(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([[0., 1.],
                [1., 0.]])
    """

    @staticmethod
    def cosine_distance(embeddings: Tensor) -> Tensor:
        """One minus the cosine."""
        return 1 - cos_sim(embeddings, embeddings)

    @staticmethod
    def euclidean_distance(embeddings: Tensor, squared: bool = False) -> Tensor:
        """Euclidean distance, or its square; in float32 at least, and with a gradient of 0 at distance 0."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            products = rows @ rows.T
        norms = products.diagonal()
        squares = (norms[None] - 2.0 * products + norms[:, None]).clamp(min=0)
        if squared:
            return squares
        apart = squares > 0
        # The root of zero has no finite derivative, so it is not taken.
        return torch.where(apart, squares.where(apart, 1.0).sqrt(), 0.0)

    eucledian_distance = euclidean_distance


BatchDistance = Callable[[Tensor], Tensor]


class _BatchTripletLoss(Loss):
    """Base of losses over one input column and the class of each row."""

    paper = "hermans2017defense"
    config_keys = ["distance_metric"]

    def __init__(self, model: nn.Module, distance_metric: BatchDistance) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Loss of the triplets within one column `(rows, dim)` with classes `(rows,)`."""
        self._expect_columns(embeddings, "(input,)", least=1, most=1)
        classes = self._expect_one_label_per_row(labels, "class", len(embeddings[0]))
        return self.triplets(self.distance_metric(embeddings[0].values), classes[:, None] == classes)

    def triplets(self, distances: Tensor, same: Tensor) -> Tensor:
        """Loss of distances `(rows, rows)`, given which rows are of the same class `(rows, rows)` bool."""
        raise NotImplementedError


class BatchHardSoftMarginTripletLoss(_BatchTripletLoss):
    """Triplet loss of each anchor's farthest positive and closest negative in the batch, with a soft margin.

    A batch needs several rows of each class: use the sampler `group_by_label`.

    Args:
        model: The encoder.
        distance_metric: Distances between all rows, `(rows, dim) -> (rows, rows)`.

    Source:
        Hermans et al. 2017, section 2 (arXiv:1703.07737).

    Example:
        >>> rows = Dataset.from_dict({"text": ["a pump", "the pump", "an oven", "the oven"], "label": [0, 0, 1, 1]})
        >>> args = SentenceTransformerTrainingArguments("out", batch_sampler="group_by_label")
        >>> loss = BatchHardSoftMarginTripletLoss(model)
        >>> trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        distance_metric: BatchDistance = BatchHardTripletLossDistanceFunction.euclidean_distance,
    ) -> None:
        super().__init__(model, distance_metric)

    def triplets(self, distances: Tensor, same: Tensor) -> Tensor:
        """Mean over anchors of `log(1 + exp(farthest positive - closest negative))`."""
        return F.softplus(_hardest(distances, same)).mean()


class BatchHardTripletLoss(_BatchTripletLoss):
    """Triplet loss of each anchor's farthest positive and closest negative in the batch, with a margin.

    A batch needs several rows of each class: use the sampler `group_by_label`.

    Args:
        model: The encoder.
        distance_metric: Distances between all rows, `(rows, dim) -> (rows, rows)`.
        margin: How much closer, in units of the distance; embeddings of length 1 are at most 2 apart.

    Source:
        Hermans et al. 2017, eq. 5 (arXiv:1703.07737).

    Example:
        >>> rows = Dataset.from_dict({"text": ["a pump", "the pump", "an oven", "the oven"], "label": [0, 0, 1, 1]})
        >>> args = SentenceTransformerTrainingArguments("out", batch_sampler="group_by_label")
        >>> loss = BatchHardTripletLoss(model, margin=0.5)  # of embeddings of length 1
        >>> trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    """

    config_keys = ["distance_metric", "margin"]

    def __init__(
        self,
        model: nn.Module,
        distance_metric: BatchDistance = BatchHardTripletLossDistanceFunction.euclidean_distance,
        margin: float = 5,
    ) -> None:
        super().__init__(model, distance_metric)
        self.margin = margin

    def triplets(self, distances: Tensor, same: Tensor) -> Tensor:
        """Mean over anchors of what is missing to the margin."""
        return F.relu(_hardest(distances, same) + self.margin).mean()


class BatchAllTripletLoss(BatchHardTripletLoss):
    """Triplet loss of all triplets in the batch: every positive of an anchor with every negative, with a margin.

    A batch needs several rows of each class: use the sampler `group_by_label`.

    Args:
        model, distance_metric, margin: As in `BatchHardTripletLoss`.

    Source:
        Hermans et al. 2017, eq. 6 (arXiv:1703.07737), averaged over the triplets that miss the margin.

    Example:
        >>> rows = Dataset.from_dict({"text": ["a pump", "the pump", "an oven", "the oven"], "label": [0, 0, 1, 1]})
        >>> args = SentenceTransformerTrainingArguments("out", batch_sampler="group_by_label")
        >>> loss = BatchAllTripletLoss(model, margin=0.5)
        >>> trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    """

    def triplets(self, distances: Tensor, same: Tensor) -> Tensor:
        """Mean, over triplets that miss the margin, of what is missing."""
        anchors, positives = _others(same).nonzero(as_tuple=True)
        gaps = distances[anchors, positives][:, None] - distances[anchors] + self.margin
        missing = F.relu(gaps) * ~same[anchors]
        return missing.sum() / ((missing > _SMALLEST).sum() + _SMALLEST)


class BatchSemiHardTripletLoss(BatchHardTripletLoss):
    """Triplet loss of each positive pair and its closest negative that is farther than the positive.

    Where no negative is farther, the farthest is taken.
    A batch needs several rows of each class: use the sampler `group_by_label`.

    Args:
        model, distance_metric, margin: As in `BatchHardTripletLoss`.

    Source:
        Schroff et al. 2015, section 3.2 (arXiv:1503.03832).

    Example:
        >>> rows = Dataset.from_dict({"text": ["a pump", "the pump", "an oven", "the oven"], "label": [0, 0, 1, 1]})
        >>> args = SentenceTransformerTrainingArguments("out", batch_sampler="group_by_label")
        >>> loss = BatchSemiHardTripletLoss(model, margin=0.5)
        >>> trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    """

    def triplets(self, distances: Tensor, same: Tensor) -> Tensor:
        """Mean over positive pairs of what is missing to the margin."""
        negatives = distances.masked_fill(same, torch.inf).sort(dim=1, stable=True).values
        places = torch.searchsorted(negatives.detach().contiguous(), distances.detach().contiguous(), right=True)
        outside = negatives.gather(1, places.clamp(max=len(distances) - 1))
        inside = distances.where(~same, distances.min(dim=1, keepdim=True).values).max(dim=1, keepdim=True).values
        semi_hard = torch.where(outside.isfinite(), outside, inside)
        positives = _others(same)
        missing = F.relu(distances - semi_hard + self.margin) * positives
        return missing.sum() / positives.sum().clamp(min=_SMALLEST)


def _others(same: Tensor) -> Tensor:
    """Rows of the same class, without the row itself."""
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def _hardest(distances: Tensor, same: Tensor) -> Tensor:
    """Distance of each anchor's farthest positive minus that of its closest negative `(rows,)`.

    Without a positive the first is 0; without a negative the second is the largest distance of the row.
    """
    positive = (distances * _others(same)).max(dim=1).values
    out_of_reach = distances.max(dim=1, keepdim=True).values * same
    return positive - (distances + out_of_reach).min(dim=1).values
