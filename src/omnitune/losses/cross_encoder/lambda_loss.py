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
    """

    every_pair = False

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """Weights that broadcast to `(queries, documents, documents)`.

        Args:
            gain: Gain of every document over the ideal DCG, by rank of score `(queries, documents)`.
            discount: `log2(1 + rank)` `(1, documents)`.
            true_sorted: Labels by rank of score `(queries, documents)`.
        """
        raise NotImplementedError


class NoWeightingScheme(BaseWeightingScheme):
    """All pairs weigh alike; the loss is then RankNet's.

    Source:
        Burges et al. 2005, eq. 3 (ICML 2005, 89-96).
    """

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """One."""
        del discount, true_sorted
        return torch.ones((), device=gain.device)


class NDCGLoss1Scheme(BaseWeightingScheme):
    """A pair weighs its first document's share of NDCG.

    Source:
        Wang et al. 2018, eq. 10 (CIKM 2018, 1313-1322).
    """

    every_pair = True

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """`(queries, documents, 1)`."""
        del true_sorted
        return (gain / discount)[:, :, None]


class NDCGLoss2Scheme(BaseWeightingScheme):
    """A pair weighs its difference of gains times that of the discounts at its distance in ranks.

    Source:
        Wang et al. 2018, eq. 16 (CIKM 2018, 1313-1322).
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
    """A pair weighs the change of NDCG when its documents change places.

    Source:
        Burges et al. 2006, eq. 6 (NIPS 2006), as eq. 14 of Wang et al. 2018 (CIKM 2018, 1313-1322).
    """

    def forward(self, gain: Tensor, discount: Tensor, true_sorted: Tensor) -> Tensor:
        """`(queries, documents, documents)`."""
        del true_sorted
        inverse = 1.0 / discount
        return (inverse[:, :, None] - inverse[:, None, :]).abs() * (gain[:, :, None] - gain[:, None, :]).abs()


class NDCGLoss2PPScheme(BaseWeightingScheme):
    """`mu` times `NDCGLoss2Scheme`, plus `LambdaRankScheme`.

    Args:
        mu: Weight of the first.

    Source:
        Wang et al. 2018, section 6 (CIKM 2018, 1313-1322).
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
        InputError: `reduction_log` is neither.

    Source:
        Wang et al. 2018 (CIKM 2018, 1313-1322).
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

    Source:
        Burges et al. 2005 (ICML 2005, 89-96).
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
