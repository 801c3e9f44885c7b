"""A loss and what keeps SPLADE's vectors sparse: the expected work of comparing them (FLOPS)."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.base import Loss
from omnitune.losses.strategies import Strategy
from omnitune.losses.wrappers import Wrapper
from omnitune.ops.collectives import mean_over_ranks
from omnitune.types import Embeddings, Objective

logger = logging.getLogger(__name__)


class FlopsLoss(nn.Module):
    """Expected products in the dot product of two vectors of the batch: sum over words of the squared mean weight.

    The mean is taken over the batches of all ranks, so that its strength does not depend on how many there are.

    It is a regularizer of `SpladeLoss`.

    Args:
        model: The encoder, or None: it takes no part.
        threshold: Vectors with at most so many entries count as zeros; None counts all.

    Raises:
        InputError: It is used alone.

    Source:
        Paria et al. 2020 (arXiv:2004.05665); the threshold is of arXiv:2504.14839.

    Example:
        >>> FlopsLoss(sparse).compute_loss_from_embeddings(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
        tensor(5.)
    """

    def __init__(self, model: nn.Module | None, threshold: float | None = None) -> None:
        super().__init__()
        self.model = model
        self.threshold = threshold

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Refuse to be used alone.

        Raises:
            InputError: Always.
        """
        del args, kwargs
        raise InputError("FlopsLoss: expected to be a regularizer of SpladeLoss, got used alone")

    def compute_loss_from_embeddings(self, embeddings: Tensor) -> Tensor:
        """FLOPS of vectors `(rows, dim)`, a scalar."""
        if self.threshold is not None:
            counted = (embeddings != 0).sum(dim=1, keepdim=True) > self.threshold
            embeddings = embeddings * counted.to(embeddings.dtype)
        total: Tensor = mean_over_ranks(embeddings).square().sum()
        return total

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for the model card."""
        return {"threshold": self.threshold}


class SpladeLoss(Wrapper):
    """Add FLOPS of documents and of queries, each with its weight, to a loss.

    In training, the weights rise from zero (`SpladeRegularizerWeightSchedulerCallback`); the weights that are given
    here are what they rise to.

    Args:
        model: The encoder.
        loss: Any sparse loss but those of CSR, or a module with `compute_loss_from_embeddings(embeddings, labels)`.
        document_regularizer_weight: Weight of the documents' FLOPS: of all columns but the first, together.
        query_regularizer_weight: Weight of the first column's; None leaves it out.
        document_regularizer: What takes the place of FLOPS: a module with `compute_loss_from_embeddings(embeddings)`.
        query_regularizer: The same for queries.
        document_regularizer_threshold: See `FlopsLoss`.
        query_regularizer_threshold: See `FlopsLoss`.
        use_document_regularizer_only: Take every column for documents.

    Raises:
        InputError: `loss` is none of those.

    Source:
        Formal et al. 2022 (arXiv:2205.04733).

    Example:
        >>> from omnitune.sparse_encoder.losses import SparseMultipleNegativesRankingLoss
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> inner = SparseMultipleNegativesRankingLoss(sparse)
        >>> loss = SpladeLoss(sparse, inner, document_regularizer_weight=3e-5, query_regularizer_weight=5e-5)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

    paper = "formal2022distillation"

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        document_regularizer_weight: float,
        query_regularizer_weight: float | None = None,
        document_regularizer: nn.Module | None = None,
        query_regularizer: nn.Module | None = None,
        document_regularizer_threshold: int | None = None,
        query_regularizer_threshold: int | None = None,
        use_document_regularizer_only: bool = False,
    ) -> None:
        if not hasattr(loss, "compute_loss_from_embeddings"):
            raise InputError(
                "loss: expected one with compute_loss_from_embeddings(embeddings, labels), got "
                f"{type(loss).__module__}.{type(loss).__qualname__}"
            )
        super().__init__(model, loss)
        if query_regularizer_weight is None and not use_document_regularizer_only:
            logger.warning(
                "query_regularizer_weight: None, so queries are not kept sparse, which is right where they are made "
                "without inference; otherwise give a weight such as 5e-5."
            )
        elif query_regularizer_weight is not None and use_document_regularizer_only:
            logger.warning("query_regularizer_weight: ignored, because use_document_regularizer_only is set.")
            query_regularizer_weight = None
        self.use_document_regularizer_only = use_document_regularizer_only
        self.document_regularizer = document_regularizer or FlopsLoss(model, document_regularizer_threshold)
        self.query_regularizer = query_regularizer or FlopsLoss(model, query_regularizer_threshold)
        self.warmth = 1.0
        self._weights: tuple[float, float | None] = (document_regularizer_weight, query_regularizer_weight)

    @property
    def document_regularizer_weight(self) -> float:
        """Weight of the documents' term now. Setting it sets what it rises to."""
        return self._weights[0] * self.warmth

    @document_regularizer_weight.setter
    def document_regularizer_weight(self, value: float) -> None:
        self._weights, self.warmth = (value, self._weights[1]), 1.0

    @property
    def query_regularizer_weight(self) -> float | None:
        """Weight of the queries' term now, or None. Setting it sets what it rises to."""
        return None if self._weights[1] is None else self._weights[1] * self.warmth

    @query_regularizer_weight.setter
    def query_regularizer_weight(self, value: float | None) -> None:
        self._weights, self.warmth = (self._weights[0], value), 1.0

    @property
    def full_weights(self) -> tuple[float, float | None]:
        """Weights of documents and queries that a schedule rises to."""
        return self._weights

    def warm(self, share: float) -> None:
        """Use this share, from 0 to 1, of the weights from now on; what they rise to stays."""
        self.warmth = share

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """The inner loss, `base_loss` unless it has parts of its own, and the weighted terms of the columns."""
        value = self.loss.value_of(embeddings, labels)
        parts = dict(value) if isinstance(value, Mapping) else {"base_loss": value}
        columns = [column.values for column in embeddings]
        documents = columns if self.use_document_regularizer_only else columns[1:]
        parts["document_regularizer_loss"] = (
            _of(self.document_regularizer)(torch.cat(documents)) * self.document_regularizer_weight
        )
        if self.query_regularizer_weight is not None:
            parts["query_regularizer_loss"] = _of(self.query_regularizer)(columns[0]) * self.query_regularizer_weight
        return parts

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for the model card."""
        inner = self.loss if not hasattr(self.loss, "loss") else self.loss.loss
        document, query = self.full_weights
        config: dict[str, Any] = {"loss": type(inner).__name__, "document_regularizer_weight": document}
        if query is not None:
            config["query_regularizer_weight"] = query
        for name in ("document", "query"):
            regularizer = getattr(self, f"{name}_regularizer")
            if not isinstance(regularizer, FlopsLoss):
                config[f"{name}_regularizer"] = type(regularizer).__name__
            if getattr(regularizer, "threshold", None) is not None:
                config[f"{name}_regularizer_threshold"] = regularizer.threshold
        return config


class CachedSpladeLoss(SpladeLoss):
    """`SpladeLoss` whose mini-batches are cut by a size that the caller sets.

    Loss and gradients are the same, and so is the memory behaviour: graphs are kept while the budget allows, the rest
    is replayed, without a product with the vocabulary.

    Args:
        model: The encoder.
        loss: As in `SpladeLoss`, as are all that are not named below.
        mini_batch_size: Most items a mini-batch holds.
        mini_batch_num_tokens: Most padded tokens a mini-batch holds, in place of `mini_batch_size`.
        show_progress_bar: Whether to show the mini-batches of every step.

    Raises:
        InputError: As in `SpladeLoss`.

    Source:
        Gao et al. 2021 (arXiv:2101.06983).

    Example:
        >>> from omnitune.sparse_encoder.losses import SparseMultipleNegativesRankingLoss
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> inner = SparseMultipleNegativesRankingLoss(sparse)
        >>> loss = CachedSpladeLoss(sparse, inner, 3e-5, 5e-5, mini_batch_size=16)
        >>> trainer = SparseEncoderTrainer(model=sparse, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        document_regularizer_weight: float,
        query_regularizer_weight: float | None = None,
        document_regularizer: nn.Module | None = None,
        query_regularizer: nn.Module | None = None,
        document_regularizer_threshold: int | None = None,
        query_regularizer_threshold: int | None = None,
        use_document_regularizer_only: bool = False,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        super().__init__(
            model,
            loss,
            document_regularizer_weight,
            query_regularizer_weight,
            document_regularizer,
            query_regularizer,
            document_regularizer_threshold,
            query_regularizer_threshold,
            use_document_regularizer_only,
        )
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.strategy = Strategy(mini_batch_size, mini_batch_num_tokens, show_progress_bar=show_progress_bar)
        # Embeddings are obtained by the innermost loss, whatever wraps it.
        inner: Loss = self.loss
        while isinstance(inner, Wrapper):
            inner.strategy, inner = self.strategy, inner.loss
        inner.strategy = self.strategy

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for the model card."""
        own = {"mini_batch_size": self.mini_batch_size, "mini_batch_num_tokens": self.mini_batch_num_tokens}
        return {**super().get_config_dict(), **own}


def _of(regularizer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Function of a regularizer: embeddings to its penalty."""
    return cast(Callable[[Tensor], Tensor], regularizer.compute_loss_from_embeddings)
