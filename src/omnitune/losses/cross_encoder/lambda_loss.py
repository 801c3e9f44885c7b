"""Pairs of a query's documents, weighted by what their order is worth to a ranking metric."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.cross_encoder.base import ListLoss
from omnitune.losses.cross_encoder.listwise import matrices
from omnitune.ops.ranking import lambda_loss
from omnitune.types import Embeddings, Objective


class BaseWeightingScheme(nn.Module):
    """Base of weighting schemes: what the order of two documents is worth.

    Attributes:
        every_pair: Whether pairs whose first document has not the higher label count too.

    Example:
        >>> from omnitune.cross_encoder.losses import LambdaLoss
        >>> class FirstRanks(BaseWeightingScheme):
        ...     def forward(self, gain, discount, true_sorted):
        ...         return (1 / discount)[:, :, None]
        >>> loss = LambdaLoss(reranker, weighting_scheme=FirstRanks())
    """

    every_pair = False

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """Weights that broadcast to `(queries, documents, documents)`.

        Args:
            gain: Gain of every document over the ideal DCG, by rank of score `(queries, documents)`.
            discount: `log2(1 + rank)` `(1, documents)`.
            true_sorted: Labels by rank of score `(queries, documents)`.
        """
        raise NotImplementedError(
            f"{type(self).__name__}: expected a method forward(gain, discount, true_sorted), got none; write one"
        )


class NoWeightingScheme(BaseWeightingScheme):
    """Weigh all pairs alike; the loss is then RankNet's.

    Source:
        Burges et al. 2005, eq. 3 (ICML 2005, 89-96).

    Example:
        >>> from omnitune.cross_encoder.losses import LambdaLoss
        >>> loss = LambdaLoss(reranker, weighting_scheme=NoWeightingScheme())
        >>> gain, discount, labels = torch.tensor([[0.8, 0.2]]), torch.tensor([[1.0, 1.585]]), torch.tensor([[2, 1]])
        >>> NoWeightingScheme()(gain, discount, labels)
        tensor(1.)
    """

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """One."""
        del discount, true_sorted
        return torch.ones((), device=gain.device)


class NDCGLoss1Scheme(BaseWeightingScheme):
    """Weigh a pair by its first document's share of NDCG.

    Source:
        Wang et al. 2018, eq. 10 (CIKM 2018, 1313-1322).

    Example:
        >>> from omnitune.cross_encoder.losses import LambdaLoss
        >>> loss = LambdaLoss(reranker, weighting_scheme=NDCGLoss1Scheme())
        >>> gain, discount, labels = torch.tensor([[0.8, 0.2]]), torch.tensor([[1.0, 1.585]]), torch.tensor([[2, 1]])
        >>> NDCGLoss1Scheme()(gain, discount, labels)
        tensor([[[0.8000],
                 [0.1262]]])
    """

    every_pair = True

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """`(queries, documents, 1)`."""
        del true_sorted
        return (gain / discount)[:, :, None]


class NDCGLoss2Scheme(BaseWeightingScheme):
    """Weigh a pair by its difference of gains times that of the discounts at its distance in ranks.

    Source:
        Wang et al. 2018, eq. 16 (CIKM 2018, 1313-1322).

    Example:
        >>> from omnitune.cross_encoder.losses import LambdaLoss
        >>> loss = LambdaLoss(reranker, weighting_scheme=NDCGLoss2Scheme())
        >>> gain, discount, labels = torch.tensor([[0.8, 0.2]]), torch.tensor([[1.0, 1.585]]), torch.tensor([[2, 1]])
        >>> NDCGLoss2Scheme()(gain, discount, labels)
        tensor([[[0.0000, 0.2215],
                 [0.2215, 0.0000]]])
    """

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """`(queries, documents, documents)`."""
        del true_sorted
        ranks = torch.arange(gain.shape[1], device=gain.device)
        distance = (ranks[:, None] - ranks[None, :]).abs()
        inverse = 1.0 / discount[0]
        steps = (inverse[distance - 1] - inverse[distance]).abs()
        return steps.masked_fill(distance == 0, 0.0)[None] * (gain[:, :, None] - gain[:, None, :]).abs()


class LambdaRankScheme(BaseWeightingScheme):
    """Weigh a pair by the change of NDCG when its documents change places.

    Source:
        Burges et al. 2006, eq. 6 (NIPS 2006), as eq. 14 of Wang et al. 2018 (CIKM 2018, 1313-1322).

    Example:
        >>> from omnitune.cross_encoder.losses import LambdaLoss
        >>> loss = LambdaLoss(reranker, weighting_scheme=LambdaRankScheme())
        >>> gain, discount, labels = torch.tensor([[0.8, 0.2]]), torch.tensor([[1.0, 1.585]]), torch.tensor([[2, 1]])
        >>> LambdaRankScheme()(gain, discount, labels)
        tensor([[[0.0000, 0.2215],
                 [0.2215, 0.0000]]])
    """

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """`(queries, documents, documents)`."""
        del true_sorted
        inverse = 1.0 / discount
        return (inverse[:, :, None] - inverse[:, None, :]).abs() * (gain[:, :, None] - gain[:, None, :]).abs()


class NDCGLoss2PPScheme(BaseWeightingScheme):
    """Weigh a pair by `mu` times `NDCGLoss2Scheme`, plus `LambdaRankScheme`.

    Args:
        mu: Weight of the first.

    Source:
        Wang et al. 2018, section 6 (CIKM 2018, 1313-1322).

    Example:
        >>> from omnitune.cross_encoder.losses import LambdaLoss
        >>> loss = LambdaLoss(reranker, weighting_scheme=NDCGLoss2PPScheme())
        >>> gain, discount, labels = torch.tensor([[0.8, 0.2]]), torch.tensor([[1.0, 1.585]]), torch.tensor([[2, 1]])
        >>> NDCGLoss2PPScheme()(gain, discount, labels)
        tensor([[[0.0000, 2.4360],
                 [2.4360, 0.0000]]])
    """

    def __init__(self, mu: float = 10.0) -> None:
        super().__init__()
        self.mu = mu
        self.ndcg_loss2 = NDCGLoss2Scheme()
        self.lambda_rank = LambdaRankScheme()

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """`(queries, documents, documents)`."""
        first: Tensor = self.ndcg_loss2(gain, discount, true_sorted)
        second: Tensor = self.lambda_rank(gain, discount, true_sorted)
        return self.mu * first + second


class LambdaLoss(ListLoss):
    """Logistic loss of the score differences of a list's pairs, each weighted by a scheme.

    Args:
        model, activation_fn, mini_batch_size: As in `ListLoss`.
        weighting_scheme: What the order of a pair is worth; None weighs all alike.
        k: Pairs count when one of them is among the first k by score; None takes all.
        sigma: Steepness of the logistic function.
        eps: Least ideal DCG, for lists without relevant documents.
        reduction_log: "binary" or "natural" logarithms.

    Raises:
        InputError: `reduction_log` is neither, the model is no cross encoder, or it gives more than one score a pair.

    Source:
        Wang et al. 2018 (CIKM 2018, 1313-1322).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "pages": [pages], "labels": [[0, 1]]})
        >>> loss = LambdaLoss(reranker, k=10)  # pairs that reach into the first ten
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=loss)
    """

    paper = "wang2018lambdaloss"
    config_keys = ["weighting_scheme", "k", "sigma", "eps", "reduction_log", *ListLoss.config_keys]

    def __init__(
        self,
        model: nn.Module,
        weighting_scheme: BaseWeightingScheme | None = NDCGLoss2PPScheme(),  # noqa: B008 - stateless; ST's default
        k: int | None = None,
        sigma: float = 1.0,
        eps: float = 1e-10,
        reduction_log: Literal["natural", "binary"] = "binary",
        activation_fn: nn.Module | None = nn.Identity(),  # noqa: B008 - stateless; ST's default
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, activation_fn, mini_batch_size)
        if reduction_log not in ("natural", "binary"):
            raise InputError(f'reduction_log: expected "natural" or "binary", got {reduction_log!r}')
        self.weighting_scheme = NoWeightingScheme() if weighting_scheme is None else weighting_scheme
        self.k = k
        self.sigma = sigma
        self.eps = eps
        self.reduction_log = reduction_log

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """`lambda_loss` of the lists."""
        return lambda_loss(
            *matrices(embeddings, labels),
            self.weighting_scheme,
            every_pair=self.weighting_scheme.every_pair,
            k=self.k,
            sigma=self.sigma,
            eps=self.eps,
            binary_log=self.reduction_log == "binary",
        )


class RankNetLoss(LambdaLoss):
    """`LambdaLoss` whose pairs weigh alike.

    Args:
        model, activation_fn, mini_batch_size: As in `ListLoss`.
        k: Pairs count when one of them is among the first k by score; None takes all.
        sigma: Steepness of the logistic function.
        eps: Without effect; there are no gains.
        reduction_log: "binary" or "natural" logarithms.

    Raises:
        InputError: As in `LambdaLoss`.

    Source:
        Burges et al. 2005 (ICML 2005, 89-96).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "pages": [pages], "labels": [[0, 1]]})
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=RankNetLoss(reranker))
    """

    paper = "burges2005learning"
    config_keys = ["k", "sigma", "eps", "reduction_log", *ListLoss.config_keys]

    def __init__(
        self,
        model: nn.Module,
        k: int | None = None,
        sigma: float = 1.0,
        eps: float = 1e-10,
        reduction_log: Literal["natural", "binary"] = "binary",
        activation_fn: nn.Module | None = nn.Identity(),  # noqa: B008 - stateless; ST's default
        mini_batch_size: int | None = None,
    ) -> None:
        super().__init__(model, None, k, sigma, eps, reduction_log, activation_fn, mini_batch_size)
