"""A positive closer than a negative, by a margin."""

from collections.abc import Callable, Sequence
from enum import Enum

from torch import Tensor, nn

from omnitune.losses.base import Loss
from omnitune.ops.objectives import triplet_margin
from omnitune.ops.similarity import pairwise_cos_sim, pairwise_euclidean_sim, pairwise_manhattan_sim
from omnitune.types import Embeddings, Objective


class TripletDistanceMetric(Enum):
    """Distances between rows; a member is called like a function: `(n, dim), (n, dim) -> (n,)`.

    Example:
        >>> TripletDistanceMetric.EUCLIDEAN(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
        tensor([5.])
        >>> loss = losses.TripletLoss(model, TripletDistanceMetric.COSINE, triplet_margin=0.2)
    """

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of row i of `x` from row i of `y`, at least 0."""
        if self is TripletDistanceMetric.COSINE:
            return 1 - pairwise_cos_sim(x, y)
        return -(pairwise_euclidean_sim if self is TripletDistanceMetric.EUCLIDEAN else pairwise_manhattan_sim)(x, y)


class TripletLoss(Loss):
    """Margin loss over the columns (anchor, positive, negative), without labels.

    Args:
        model: The encoder.
        distance_metric: A `TripletDistanceMetric`, or any function `(n, dim), (n, dim) -> (n,)`.
        triplet_margin: How much farther than the positive the negative should be, in units of the distance; embeddings
            of length 1 are at most 2 apart.

    Source:
        Schroff et al. 2015, eq. 1 (arXiv:1503.03832), with the distance in place of its square.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot is it?"], "good": pages[1:], "bad": pages[:1]})
        >>> loss = TripletLoss(model, triplet_margin=0.5)  # of embeddings of length 1
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    paper = "hermans2017defense"
    lists = "rows"
    config_keys = ["distance_metric", "triplet_margin"]

    def __init__(
        self,
        model: nn.Module,
        distance_metric: Callable[[Tensor, Tensor], Tensor] = TripletDistanceMetric.EUCLIDEAN,
        triplet_margin: float = 5,
    ) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.triplet_margin = triplet_margin

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Margin loss of anchors, positives and negatives `(rows, dim)`."""
        del labels
        self._expect_columns(embeddings, "(anchor, positive, negative)", least=3, most=3)
        anchor, positive, negative = (e.values for e in embeddings)
        return triplet_margin(
            self.distance_metric(anchor, positive), self.distance_metric(anchor, negative), self.triplet_margin
        )
