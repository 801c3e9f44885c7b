"""What travels between rooms: raw columns in, embeddings out.

A `Batch` is raw: its columns hold items as the dataset gave them, and no tensor is made until the engine prepares a
mini-batch. Every model output is `Embeddings`, so slicing, joining, detaching and truncating are written once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from omnitune.errors import ShapeError

Modality = str | tuple[str, ...]
"""`"text"`, `"image"`, `"audio"`, `"video"`, `"message"`, or a sorted tuple such as `("image", "text")`."""

Features = dict[str, Any]
"""Inputs of a model's forward: tensors by the processor's names, plus `"modality"`, `"task"`, `"prompt_length"`."""

OnBadItem = Literal["raise", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a batch: raw items of one role.

    Attributes:
        name: The dataset's column name, for messages.
        items: Raw items: texts, images in any accepted form, multimodal dicts, messages.
        role: Route or task the model is told ("query", "document", ...), or None.
        prompt: Text put before every item, or None.
        rows: The items' row numbers in their dataset, or None outside a dataset.
        dataset: The dataset's name, or None.
    """

    name: str
    items: Sequence[Any]
    role: str | None = None
    prompt: str | None = None
    rows: Sequence[int] | None = None
    dataset: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    def place(self, index: int) -> str:
        """Where item `index` came from, for an error: dataset, row and column."""
        row = index if self.rows is None else self.rows[index]
        where = f"row {row}, column {self.name!r}"
        return where if self.dataset is None else f"dataset {self.dataset!r}, {where}"


Labels = Tensor | list[Tensor]
"""`(rows,)` or `(rows, n)`; where rows have lists of different lengths, a tensor `(n,)` of each row."""


class Batch(TypedDict):
    """What the collator makes and the trainer carries: a plain dict, which accelerate passes through untouched."""

    columns: list[Column]
    labels: Labels | None
    dataset: str | None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Every model output.

    Attributes:
        values: `(rows, dim)`; or `(rows, tokens, dim)` for token vectors; or `(pairs, labels)` for pair scores.
        mask: `(rows, tokens)` bool, True where `values` holds a token; None for one vector a row.
    """

    values: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor | slice) -> "Embeddings":
        return Embeddings(self.values[rows], None if self.mask is None else self.mask[rows])

    def detach(self) -> "Embeddings":
        """The same numbers without their graph."""
        return Embeddings(self.values.detach(), self.mask)

    def truncate(self, dim: int) -> "Embeddings":
        """The first `dim` dimensions, scaled back to unit length.

        Raises:
            ShapeError: The embeddings have fewer than `dim` dimensions.
        """
        width = self.values.shape[-1]
        if dim > width:
            raise ShapeError(f"dim: expected at most the embedding dimension {width}, got {dim}")
        return Embeddings(F.normalize(self.values[..., :dim], dim=-1), self.mask)

    @staticmethod
    def cat(parts: Sequence["Embeddings"]) -> "Embeddings":
        """Rows of all `parts`, in order; token dimensions are padded to the longest."""
        masks = [p.mask for p in parts]
        if masks[0] is None:
            return Embeddings(torch.cat([p.values for p in parts]))
        tokens = max(p.values.shape[1] for p in parts)
        values = [F.pad(p.values, (0, 0, 0, tokens - p.values.shape[1])) for p in parts]
        padded = [F.pad(m, (0, tokens - m.shape[1])) for m in masks if m is not None]
        return Embeddings(torch.cat(values), torch.cat(padded))


Objective = Tensor | Mapping[str, Tensor]
"""What an objective returns: a scalar, or named parts whose sum is the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniBatch:
    """A cut of the plan: distinct items that are prepared and run together.

    Attributes:
        items: Raw items.
        places: Where each item first occurred, for errors.
        modality: What all of them are.
        role: Task told to the model, or None.
        prompt: Prompt of all of them, or None.
        cost: Padded cost of the cut: items times the most expensive one (tokens, or pixels in token units).
        keys: Content of each item, where it was looked at.
        tower: State of the frozen tower whose outputs may stand for these items, or None.
        processing: Settings under which their processed inputs are kept, or None.
    """

    items: Sequence[Any]
    places: Sequence[str]
    modality: Modality
    role: str | None = None
    prompt: str | None = None
    cost: int = 0
    keys: Sequence[str] = ()
    tower: str | None = None
    processing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the items of some columns are encoded: which together, and where the results go.

    Attributes:
        mini_batches: In the order in which they run.
        rows: For each column, the row of every item in the joined outputs `(items,)`, int64.
    """

    mini_batches: Sequence[MiniBatch]
    rows: Sequence[Tensor] = field(default_factory=list)

    @property
    def distinct(self) -> int:
        """Number of items that are encoded."""
        return sum(len(m.items) for m in self.mini_batches)


@runtime_checkable
class Encodes(Protocol):
    """What a loss strategy needs of the encoding engine."""

    def plan(
        self, columns: Sequence[Column], *, mini_batch_size: int | None = None, mini_batch_num_tokens: int | None = None
    ) -> Plan:
        """Cost, distinct items, order and cuts of `columns`."""

    def in_step(self, mini_batches: Sequence[MiniBatch]) -> Sequence[tuple[int, MiniBatch]]:
        """What is to be run, each with its place in `mini_batches`; or with -1, for the sake of other ranks alone."""

    def prepare(self, mini_batches: Sequence[MiniBatch]) -> Iterator[Features]:
        """Features on the device, one dict a mini-batch, made in the background a few ahead."""

    def run(self, features: Features) -> Embeddings:
        """One forward, with a graph exactly when gradients are enabled."""

    def parameters(self) -> Iterable[Tensor]:
        """The encoder's weights."""

    @property
    def sharded(self) -> bool:
        """Whether weights are sharded over ranks, which must then make every forward together."""

    @property
    def stochastic(self) -> bool:
        """Whether a forward draws random numbers now (dropout in training mode)."""
