"""A query's whole list of documents at once: by their distribution, their order, or their ranks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from omnitune.losses.cross_encoder.base import ListLoss
from omnitune.ops.ranking import adr_mse, list_mle, list_net, position_weights
from omnitune.types import Embeddings, Objective


def matrices(embeddings: Sequence[Embeddings], labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, labels and mask of a `ListLoss`, `(queries, documents)` each."""
    mask = embeddings[0].mask
    assert mask is not None and labels is not None  # ListLoss makes both
    return embeddings[0].values, labels.to(mask.device), mask


class ListNetLoss(ListLoss):
    """Cross-entropy between the distributions over a list that labels and scores give.

    Args:
        model, activation_fn, mini_batch_size: As in `ListLoss`.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        Cao et al. 2007 (ICML 2007, 129-136).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "pages": [pages], "labels": [[0, 1]]})
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=ListNetLoss(reranker))
    """

    paper = "cao2007learning"

    def __init__(
        self,
        model: nn.Module,
        activation_fn: nn.Module | None = nn.Identity(),  # noqa: B008 - stateless; ST's default
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, activation_fn, mini_batch_size)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """`list_net` of the lists."""
        return list_net(*matrices(embeddings, labels))


class PListMLELambdaWeight(nn.Module):
    """Weights of the positions of a list: by default they halve from one position to the next.

    Args:
        rank_discount_fn: Mask `(queries, documents)` to weights of the same shape; None for `position_weights`.

    Source:
        Lan et al. 2014, section 3.2 (UAI 2014, 449-458).

    Example:
        >>> PListMLELambdaWeight()(torch.tensor([[True, True, True]]))
        tensor([[3., 1., 0.]])
        >>> by_rank = PListMLELambdaWeight(lambda mask: mask / torch.arange(1, mask.shape[1] + 1, device=mask.device))
        >>> by_rank(torch.tensor([[True, True, False]]))
        tensor([[1.0000, 0.5000, 0.0000]])
    """

    def __init__(self, rank_discount_fn: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.rank_discount_fn = rank_discount_fn

    def forward(self, mask: Tensor) -> Tensor:
        """Weights `(queries, documents)` of where there are documents."""
        return position_weights(mask) if self.rank_discount_fn is None else self.rank_discount_fn(mask)


class PListMLELoss(ListLoss):
    """Likelihood of the right order of a list, its first positions weighing more.

    Args:
        model, activation_fn, mini_batch_size: As in `ListLoss`.
        lambda_weight: Weights of the positions; None weighs all alike.
        respect_input_order: The documents come in the right order; otherwise labels sort them.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        Lan et al. 2014 (UAI 2014, 449-458).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "pages": [pages[::-1]], "labels": [[1, 0]]})  # best first
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=PListMLELoss(reranker))
    """

    paper = "lan2014position"
    config_keys = ["lambda_weight", *ListLoss.config_keys, "respect_input_order"]

    def __init__(
        self,
        model: nn.Module,
        lambda_weight: PListMLELambdaWeight | None = PListMLELambdaWeight(),  # noqa: B008 - stateless; ST's default
        activation_fn: nn.Module | None = nn.Identity(),  # noqa: B008 - stateless; ST's default
        mini_batch_size: int | None = None,
        respect_input_order: bool = True,
    ) -> None:
        super().__init__(model, activation_fn, mini_batch_size)
        self.lambda_weight = lambda_weight
        self.respect_input_order = respect_input_order

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """`list_mle` of the lists in their right order."""
        scores, given, mask = matrices(embeddings, labels)
        if not self.respect_input_order:
            order = given.masked_fill(~mask, -torch.inf).sort(descending=True, dim=1).indices
            scores = scores.gather(1, order)
        return list_mle(scores, mask, None if self.lambda_weight is None else self.lambda_weight(mask))


class ListMLELoss(PListMLELoss):
    """Likelihood of the right order of a list, all positions weighing alike.

    Args:
        model, activation_fn, mini_batch_size: As in `ListLoss`.
        respect_input_order: The documents come in the right order; otherwise labels sort them.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        Xia et al. 2008 (ICML 2008, 1192-1199).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "pages": [pages[::-1]], "labels": [[1, 0]]})  # best first
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=ListMLELoss(reranker))
    """

    paper = "xia2008listwise"
    config_keys = [*ListLoss.config_keys, "respect_input_order"]

    def __init__(
        self,
        model: nn.Module,
        activation_fn: nn.Module | None = nn.Identity(),  # noqa: B008 - stateless; ST's default
        mini_batch_size: int | None = None,
        respect_input_order: bool = True,
    ) -> None:
        super().__init__(model, None, activation_fn, mini_batch_size, respect_input_order)


class ADRMSELoss(ListLoss):
    """Squared error between the ranks that labels and scores give, discounted like DCG.

    Args:
        model, activation_fn, mini_batch_size: As in `ListLoss`.
        alpha: Steepness of the smooth comparison of two scores.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        Schlatt et al. 2025 (ECIR 2025, doi:10.1007/978-3-031-88714-7_31).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "pages": [pages], "labels": [[0, 1]]})
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=ADRMSELoss(reranker))
    """

    paper = "schlatt2025rankdistillm"
    config_keys = ["alpha", *ListLoss.config_keys]

    def __init__(
        self,
        model: nn.Module,
        alpha: float = 1.0,
        activation_fn: nn.Module | None = nn.Identity(),  # noqa: B008 - stateless; ST's default
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, activation_fn, mini_batch_size)
        self.alpha = alpha

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """`adr_mse` of the lists."""
        return adr_mse(*matrices(embeddings, labels), alpha=self.alpha)
