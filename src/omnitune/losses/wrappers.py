"""Losses made of another loss."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.base import Loss, overridden
from omnitune.types import Column, Embeddings, Encodes, Features, Labels, Objective

logger = logging.getLogger(__name__)


class FromEmbeddings(Loss):
    """A module with `compute_loss_from_embeddings(embeddings, labels)` as a loss: its embeddings are made as for any.

    Args:
        model: The encoder.
        loss: The module.
    """

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__(model)
        self.loss = loss

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Whatever the module computes."""
        value: Objective = cast(Any, self.loss).compute_loss_from_embeddings([e.values for e in embeddings], labels)
        return value


class Wrapper(Loss):
    """A loss made of another, which says how its embeddings are obtained and what its labels are.

    Args:
        model: The encoder.
        loss: A `Loss`, or a module with `compute_loss_from_embeddings(embeddings, labels)`.

    Raises:
        InputError: `loss` is neither, or has a `forward` of its own and nothing that takes embeddings.
    """

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        if not isinstance(loss, Loss) and hasattr(loss, "compute_loss_from_embeddings"):
            loss = FromEmbeddings(model, loss)
        if not isinstance(loss, Loss):
            raise InputError(
                f"loss: expected a subclass of omnitune.losses.Loss, or a module with compute_loss_from_embeddings("
                f"embeddings, labels), got {type(loss).__module__}.{type(loss).__qualname__}"
            )
        if overridden(loss, "forward") and not overridden(loss, "compute_loss_from_embeddings"):
            raise InputError(
                f"loss: expected one without a forward of its own, because {type(self).__name__} makes the embeddings "
                f"itself and would not call it, got {type(loss).__name__}; override compute_loss_from_embeddings("
                f"embeddings, labels) instead"
            )
        super().__init__(model, loss.strategy)
        self.loss: Loss = loss
        self.any_width = loss.any_width
        self.lists = loss.lists

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """Embed as the inner loss asks."""
        return self.loss.embed(columns, engine)

    def targets(self, columns: Sequence[Column | Features], labels: Labels | None) -> Tensor | None:
        """Take those of the inner loss."""
        return self.loss.targets(columns, labels)

    def negatives_per_query(self, batch_size: int, columns: int) -> int | None:
        """Take those of the inner loss."""
        return self.loss.negatives_per_query(batch_size, columns)


class MatryoshkaLoss(Wrapper):
    """Sum of a loss over truncated embeddings, so that the first dimensions alone make good embeddings too.

    Items are encoded once, in the way that the inner loss asks for. With an in-batch loss on `cos_sim` or `dot_score`,
    all dimensions share one pass.

    Args:
        model: The encoder.
        loss: Any loss of this library, cached ones included.
        matryoshka_dims: Numbers of leading dimensions, in any order; the model's own among them, as a rule.
        matryoshka_weights: Weight of each, by default 1.
        n_dims_per_step: Draw so many of them at random in every step; -1 uses all.

    Raises:
        InputError: No dimensions, one below 1 or above the model's, as many weights as dimensions are not there, or
            `loss` is not a `Loss` on embeddings of any width.

    Source:
        Kusupati et al. 2022, eq. 1 (arXiv:2205.13147).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> loss = MatryoshkaLoss(model, losses.MultipleNegativesRankingLoss(model), [384, 128, 64])
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
        >>> model.encode(pages, truncate_dim=64).shape
        (2, 64)
    """

    paper = "kusupati2024matryoshka"
    config_keys = ["loss", "matryoshka_dims", "matryoshka_weights", "n_dims_per_step"]

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | Sequence[int] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        super().__init__(model, loss)
        if not self.any_width:
            raise InputError(
                f"loss: expected one on embeddings of any number of dimensions, got {type(loss).__name__} with a layer "
                f"that takes whole embeddings only; without such a layer (projection_dim=None) it can be truncated"
            )
        weights = [1] * len(matryoshka_dims) if matryoshka_weights is None else list(matryoshka_weights)
        _check(matryoshka_dims, weights, cast(Callable[[], int | None], model.get_embedding_dimension)())
        pairs = sorted(zip(matryoshka_dims, weights, strict=True), key=lambda pair: pair[0], reverse=True)
        self.matryoshka_dims = tuple(dim for dim, _ in pairs)
        self.matryoshka_weights = tuple(weight for _, weight in pairs)
        self.n_dims_per_step = n_dims_per_step

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Weighted sum of the inner objective at each dimension; of each of its parts, where it has parts."""
        chosen: Sequence[int] = range(len(self.matryoshka_dims))
        if 0 < self.n_dims_per_step < len(chosen):
            chosen = random.sample(chosen, self.n_dims_per_step)
        values = self.loss.objective_at(embeddings, labels, [self.matryoshka_dims[i] for i in chosen])
        return weighted_sum(values, [self.matryoshka_weights[i] for i in chosen])


def weighted_sum(values: Sequence[Objective], weights: Sequence[float]) -> Objective:
    """Sum of objectives, each times its weight; part by part where they have parts."""
    weighted = list(zip(values, weights, strict=True))
    first = values[0]
    if isinstance(first, Mapping):
        return {name: _total([cast(Mapping[str, Tensor], v)[name] * w for v, w in weighted]) for name in first}
    return _total([cast(Tensor, v) * w for v, w in weighted])


def _total(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _check(dims: Sequence[int], weights: Sequence[float], width: int | None) -> None:
    if not dims or min(dims) < 1:
        raise InputError(f"matryoshka_dims: expected at least one positive number, got {list(dims)}")
    if len(weights) != len(dims):
        raise InputError(
            f"matryoshka_weights: expected one for each of the {len(dims)} matryoshka_dims, got {len(weights)}"
        )
    if width is None:
        return
    if max(dims) > width:
        raise InputError(
            f"matryoshka_dims: expected at most the model's embedding dimension {width}, got {list(dims)}; "
            f"leave out what is larger"
        )
    if width not in dims:
        logger.warning(
            "matryoshka_dims %s leave out the model's own dimension %d, which is then not trained and may get worse.",
            list(dims),
            width,
        )
