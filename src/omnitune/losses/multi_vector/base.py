"""Base of the losses of late interaction: roles by position, and scores of packed token vectors by one operator."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError, ShapeError
from omnitune.losses.base import Loss, described
from omnitune.losses.strategies import Strategy
from omnitune.ops import token_similarity as ready
from omnitune.ops.maxsim import maxsim, xtr
from omnitune.types import Column, Embeddings, Encodes, Features

Score = Callable[..., Tensor]
"""Scores of queries and documents: of all pairs, or with `pairs=` of those."""


def scorer(similarity_fct: Callable[..., Tensor] | None, smooth: float | None) -> Score | None:
    """The operator that a ready-made score function stands for; None for a function of the caller's.

    Args:
        similarity_fct: A function of `ops.token_similarity`, of the caller's, or None for MaxSim.
        smooth: Temperature of a smooth maximum, or None.

    Raises:
        InputError: `smooth` is asked of a function that has no maximum.
    """
    plain = (None, ready.colbert_scores, ready.colbert_kd_scores, ready.colbert_scores_pairwise)
    mean = (ready.mean_colbert_scores, ready.mean_colbert_kd_scores, ready.mean_colbert_scores_pairwise)
    if similarity_fct in plain or similarity_fct in mean:
        return partial(maxsim, mean=similarity_fct in mean, smooth=smooth)
    if smooth is not None:
        raise InputError(f"smooth: expected None with {described(similarity_fct)}, got {smooth}")
    if isinstance(similarity_fct, ready.XTRScores):
        return partial(xtr, top_k=similarity_fct.top_k)
    if similarity_fct in (ready.xtr_scores, ready.xtr_kd_scores, ready.xtr_scores_pairwise):
        return xtr
    return None


class LateLoss(Loss):
    """Base of the losses over token vectors of a query and its documents.

    Args:
        model: The encoder.
        similarity_fct: Score function; None is MaxSim.
        smooth: Temperature of a smooth maximum over document tokens; None takes the maximum.
        mini_batch_size: Most items a mini-batch holds; None plans by cost alone.
        mini_batch_num_tokens: Most padded tokens a mini-batch holds, in place of `mini_batch_size`.
        show_progress_bar: Whether to show the mini-batches of every step.
    """

    def __init__(
        self,
        model: nn.Module,
        similarity_fct: Callable[..., Tensor] | None,
        *,
        smooth: float | None = None,
        mini_batch_size: int | None = None,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        strategy = Strategy(mini_batch_size, mini_batch_num_tokens, show_progress_bar=show_progress_bar)
        super().__init__(model, strategy)
        if smooth is not None and not smooth > 0:
            raise InputError(f"smooth: expected a positive temperature or None, got {smooth}")
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.similarity_fct = similarity_fct
        self.smooth = smooth
        self._score = scorer(similarity_fct, smooth)

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """Packed token vectors of every column; the first is of queries unless its role says otherwise."""
        named = [_with_role(column, "document" if i else "query") for i, column in enumerate(columns)]
        return [embedded.pack() for embedded in super().embed(named, engine)]

    def scores(self, queries: Embeddings, documents: Sequence[Embeddings]) -> Tensor:
        """Scores of every query with every document, column after column: `(queries, columns * rows)`.

        Args:
            queries: Token vectors.
            documents: Token vectors of every column, of as many rows each.
        """
        if self._score is not None:
            return self._score(queries, Embeddings.cat(list(documents)))
        rows, count = len(documents[0]), len(documents)
        found = self._custom(queries, documents)
        if found.shape != (len(queries), rows * count):
            raise ShapeError(
                f"similarity_fct: expected scores {(len(queries), rows * count)} of all pairs, got {tuple(found.shape)}"
            )
        return found.view(len(queries), rows, count).transpose(1, 2).flatten(1)

    def own_scores(self, queries: Embeddings, documents: Sequence[Embeddings]) -> Tensor:
        """Scores of every query with the documents of its own row `(rows, columns)`."""
        if self._score is not None:
            rows = torch.arange(len(queries))
            pairs = rows.repeat(len(documents)), torch.arange(len(rows) * len(documents))
            found = self._score(queries, Embeddings.cat(list(documents)), pairs)
            return found.view(len(documents), len(rows)).T
        return self._custom(queries, documents)

    def _custom(self, queries: Embeddings, documents: Sequence[Embeddings]) -> Tensor:
        """Score padded vectors `(rows, columns, tokens, dim)` by the caller's function."""
        assert self.similarity_fct is not None
        asking, padded = queries.pad(), [column.pad() for column in documents]
        longest = max(column.values.shape[1] for column in padded)
        values = [F.pad(c.values, (0, 0, 0, longest - c.values.shape[1])) for c in padded]
        masks = [F.pad(c.mask, (0, longest - c.mask.shape[1])) for c in padded if c.mask is not None]
        return self.similarity_fct(
            asking.values,
            torch.stack(values, dim=1),
            queries_mask=asking.mask,
            documents_mask=torch.stack(masks, dim=1),
        )

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card; `smooth` where it is used."""
        function = self.similarity_fct
        score = "colbert_scores" if function is None else described(function)
        config = {**super().get_config_dict(), "similarity_fct": score, "mini_batch_size": self.mini_batch_size}
        return config if self.smooth is None else {**config, "smooth": self.smooth}


def _with_role(column: Column | Features, role: str) -> Column | Features:
    if isinstance(column, Column):
        return column if column.role is not None else dataclasses.replace(column, role=role)
    return column if column.get("task") is not None else {**column, "task": role}
