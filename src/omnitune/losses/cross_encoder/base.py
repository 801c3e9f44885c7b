"""Losses of cross encoders: an objective on the scores of pairs, times a strategy that obtains them.

The columns of a batch become columns of pairs, and all pairs of a step are one plan: sorted by cost, equal ones scored
once, preprocessed in the background, their graphs kept or replayed as for embeddings.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from omnitune.errors import InputError, MediaError, ModalityError, ShapeError
from omnitune.losses.base import Loss, given_columns
from omnitune.losses.strategies import Strategy
from omnitune.types import Column, Embeddings, Encodes, Features, Labels

Raw = Column | Sequence[Any] | Features


class PairLoss(Loss):
    """Base of losses over the columns (query, document) or (query, document, ..., document).

    Args:
        model: The cross encoder.
        activation_fn: Applied to the scores; None for nothing.
        strategy: How scores are obtained.
        one_label: Whether the model must give one score a pair.

    Attributes:
        columns: What the columns of a batch are, for messages.
        least: Fewest columns.
        most: Most columns.

    Raises:
        InputError: The model is no cross encoder, or has another number of labels.

    Example:
        >>> class HingeLoss(PairLoss):
        ...     columns, least, most = "(query, positive, negative)", 3, 3
        ...     def objective(self, embeddings, labels):
        ...         positive, negative = (scores.values for scores in embeddings)
        ...         return torch.relu(1 + negative - positive).mean()
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "good": pages[1:], "bad": pages[:1]})
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=HingeLoss(reranker))
    """

    columns: ClassVar[str] = "(query, document)"
    least: ClassVar[int] = 2
    most: ClassVar[int] = 2
    lists = "cells"
    config_keys = ["activation_fn"]

    def __init__(
        self,
        model: nn.Module,
        activation_fn: nn.Module | None = None,
        strategy: Strategy | None = None,
        *,
        one_label: bool = True,
    ) -> None:
        super().__init__(model, strategy)
        labels = getattr(model, "num_labels", None)
        name = type(self).__name__
        if labels is None:
            raise InputError(f"{name}: expected a CrossEncoder, which scores pairs, got a {type(model).__name__}")
        if one_label and labels != 1:
            raise InputError(f"{name}: expected a model with 1 label, got one with {labels}; load it with num_labels=1")
        self.activation_fn = nn.Identity() if activation_fn is None else activation_fn

    def forward(  # pairs are made of raw columns, never of ready features
        self,
        inputs: Sequence[Raw],
        labels: Labels | None = None,
        prompt: str | None = None,
        task: str | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """The loss of one batch.

        Args:
            inputs: Columns of raw items, or lists of them.
            labels: Tensor `(rows,)` or `(rows, n)`, or for lists of documents a tensor a row; None without labels.
            prompt: Text put before every pair, for lists; columns have their own.
            task: Role told to the model, for lists.

        Returns:
            A scalar, or named scalar parts whose sum is the loss.
        """
        self._expect_columns(inputs, self.columns, least=self.least, most=self.most)
        inputs = given_columns(inputs)
        columns = [
            c if isinstance(c, Column) else Column(name=str(i), items=list(c), role=task, prompt=prompt)
            for i, c in enumerate(inputs)
        ]
        for what in ("prompt", "role"):
            given = {column.name: getattr(column, what) for column in columns}
            if len(set(given.values())) > 1:
                raise InputError(
                    f"{'prompts' if what == 'prompt' else 'router_mapping'}: expected one for all columns, because a "
                    f"pair is made of several, got {given}"
                )
        return super().forward(columns, labels)

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """Scores of the first column's items with those of each other column, `(rows, labels)` each."""
        queries, *documents = cast(Sequence[Column], columns)
        return self.strategy.embed(engine, [self.pair_column(queries, column) for column in documents])

    def pair_column(self, queries: Column, documents: Column, rows: Sequence[int] | None = None) -> Column:
        """Pairs of the items of two columns, as one column.

        Args:
            queries: First items.
            documents: Second items.
            rows: For each document, the row of its query; None pairs them one to one.
        """
        rows = range(len(documents)) if rows is None else rows
        whole = replace(queries, name=f"{queries.name}, {documents.name}")
        return replace(
            whole,
            items=[self._pair(whole, row, document) for row, document in zip(rows, documents.items, strict=True)],
            rows=None if queries.rows is None else [queries.rows[row] for row in rows],
        )

    def _pair(self, queries: Column, row: int, document: Any) -> Any:
        try:
            return cast(Any, self.model).pair(queries.items[row], document)
        except MediaError as error:
            raise error.at(queries.place(row)) from error
        except ModalityError as error:
            raise ModalityError(f"{queries.place(row)}: {error}") from error


class ListLoss(PairLoss):
    """Base of losses over the columns (query, list of documents), with a list of labels a row.

    Its objective gets the scores of all lists as one matrix: `values` `(queries, documents)`, float32, and a `mask` of
    the same shape that is True where there is a document; labels likewise, 0 where there is none.

    Args:
        model: The cross encoder.
        activation_fn: Applied to the scores; None for nothing.
        mini_batch_size: Pairs a mini-batch; None or a number below 1 plans mini-batches by cost.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Example:
        >>> class ListMSELoss(ListLoss):
        ...     def objective(self, embeddings, labels):
        ...         [scores] = embeddings
        ...         return (scores.values - labels)[scores.mask].square().mean()
        >>> rows = Dataset.from_dict({"query": ["How hot?"], "pages": [pages], "labels": [[0, 1]]})
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=ListMSELoss(reranker))
    """

    columns = "(query, list of documents)"
    config_keys = ["activation_fn", "mini_batch_size"]

    def __init__(
        self, model: nn.Module, activation_fn: nn.Module | None = None, mini_batch_size: int | None = None
    ) -> None:
        size = mini_batch_size if mini_batch_size is not None and mini_batch_size > 0 else None
        super().__init__(model, activation_fn, Strategy(size))
        self.mini_batch_size = mini_batch_size

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """The scores of all lists, as one matrix with a mask.

        Raises:
            InputError: The second column does not hold lists.
        """
        queries, lists = cast(Sequence[Column], columns)
        if not all(isinstance(documents, list | tuple) for documents in lists.items):
            name = type(self).__name__
            raise InputError(f"{name}: expected lists of documents in column {lists.name!r}, got single documents")
        mask = _mask(lists)
        flat = replace(lists, items=[document for documents in lists.items for document in documents], rows=None)
        pairs = self.pair_column(queries, flat, mask.nonzero()[:, 0].tolist())
        values = self.activation_fn(self.strategy.embed(engine, [pairs])[0].values.float().flatten())
        mask = mask.to(values.device)
        return [Embeddings(torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values), mask)]

    def targets(self, columns: Sequence[Column | Features], labels: Labels | None) -> Tensor | None:
        """Labels `(queries, documents)`, 0 where there is no document.

        Raises:
            ShapeError: There is not one label a document.
        """
        name = type(self).__name__
        if labels is None or (isinstance(labels, Tensor) and labels.ndim != 2):
            raise ShapeError(
                f"{name}: expected a list of labels for each query, one a document, got "
                f"{'None' if labels is None else f'labels of shape {tuple(labels.shape)}'}"
            )
        mask = _mask(cast(Column, columns[1]))
        expected, found = mask.sum(dim=1).tolist(), [len(row) for row in labels]
        if found != expected:
            raise ShapeError(f"{name}: expected one label a document, {expected} of each query, got {found}")
        flat = torch.cat(list(labels)).float()
        return torch.zeros(mask.shape, device=flat.device).masked_scatter(mask.to(flat.device), flat)


def _mask(lists: Column) -> Tensor:
    """`(queries, documents)` bool: where a column of lists has a document, lists aligned to the left."""
    lengths = torch.tensor([len(documents) for documents in lists.items])
    return torch.arange(int(lengths.max())) < lengths[:, None]
