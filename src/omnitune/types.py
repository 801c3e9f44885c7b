"""Data that travels between rooms: raw columns in, embeddings out.

A `Batch` is raw: its columns hold items as the dataset gave them, and no tensor is made until the engine prepares a
mini-batch. Every model output is `Embeddings`, so slicing, joining, detaching and truncating are written once for all
layouts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from omnitune.errors import ShapeError

Modality = str | tuple[str, ...]
"""`"text"`, `"image"`, `"audio"`, `"video"`, `"message"`, or a sorted tuple such as `("image", "text")`."""

Features = dict[str, Any]
"""Inputs of a model's forward: tensors by the processor's names, plus `"modality"`, `"task"`, `"prompt_length"`."""

DENSE_ALONE = "dense_alone"
"""Feature that tells a sparse autoencoder to pass the dense vector on, because a loss codes the whole batch itself."""

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
        max_length: Tokens after which its texts are cut, or None for the model's own limit.
        lengths: Number of items of every row, where cells were lists and are laid flat; None for one item a row.
    """

    name: str
    items: Sequence[Any]
    role: str | None = None
    prompt: str | None = None
    rows: Sequence[int] | None = None
    dataset: str | None = None
    max_length: int | None = None
    lengths: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def place(self, index: int) -> str:
        """Say where item `index` came from, for an error: dataset, row and column."""
        row = index if self.rows is None else self.rows[index]
        where = f"row {row}, column {self.name!r}"
        return where if self.dataset is None else f"dataset {self.dataset!r}, {where}"


class Collated(dict[str, Any]):
    """Features of a column, for a loss that calls the model itself, and the column for one that hands them on to ours.

    Ours cuts mini-batches of the column, and a guide or a decoder reads its texts; neither can be had of features.

    Args:
        features: What the model takes.
        column: What they were made of.
    """

    def __init__(self, features: Features, column: Column) -> None:
        super().__init__(features)
        self._made_of = column
        # Tensors stay referred to: the id of one that is gone may be another's.
        self._made = {key: (value, getattr(value, "_version", 0)) for key, value in features.items()}

    @property
    def column(self) -> "Column | Features":
        """The column, or these features where a key or a tensor was changed since."""
        same = self.keys() == self._made.keys() and all(
            value is self._made[key][0] and getattr(value, "_version", 0) == self._made[key][1]
            for key, value in self.items()
        )
        return self._made_of if same else self


class CollatedItems(list[Any]):
    """Items of a column, for a loss that calls a cross encoder itself, and the column for one that hands them on.

    Args:
        column: What holds the items.
    """

    def __init__(self, column: Column) -> None:
        super().__init__(column.items)
        self._made_of = column

    @property
    def column(self) -> "Column | list[Any]":
        """The column, or these items where one was changed since."""
        own = self._made_of.items
        return self._made_of if len(self) == len(own) and all(map(is_, self, own)) else self


Labels = Tensor | list[Tensor]
"""`(rows,)` or `(rows, n)`; where rows have lists of different lengths, a tensor `(n,)` of each row."""


class Batch(TypedDict):
    """Batch as the collator makes it: a plain dict, which accelerate passes through untouched."""

    columns: list[Column]
    labels: Labels | None
    dataset: str | None


Layout = Literal["dense", "padded", "packed", "csr"]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Every model output, in one of four layouts.

    | layout | fields | row i |
    |---|---|---|
    | dense | `values (rows, dim)` | `values[i]` |
    | padded | `values (rows, tokens, dim)`, `mask (rows, tokens)` | `values[i][mask[i]]` |
    | packed | `values (all tokens, dim)`, `offsets (rows + 1,)` | `values[offsets[i]:offsets[i + 1]]` |
    | csr | `values (non-zeros,)`, `offsets`, `indices (non-zeros,)`, `dim` | non-zeros at `indices[...]` of `dim` |

    Work is done on packed and csr rows, which hold no padding; `pad`, `unbind` and `coo` are the forms that callers of
    the public verbs expect.

    Attributes:
        values: The numbers; of pair scores `(pairs, labels)`.
        mask: Bool, True where a padded row holds a token.
        offsets: int64, in host memory, because it decides shapes: reading it from a device would wait for the device.
        indices: Column of every non-zero, int64.
        dim: Columns of a csr matrix.
    """

    values: Tensor
    mask: Tensor | None = None
    offsets: Tensor | None = None
    indices: Tensor | None = None
    dim: int | None = None

    @property
    def layout(self) -> Layout:
        """Name of the one of the four that it is."""
        if self.offsets is not None:
            return "packed" if self.indices is None else "csr"
        return "dense" if self.mask is None else "padded"

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, rows: Tensor | slice) -> "Embeddings":
        """Some rows; consecutive ones of a packed or csr layout share memory with these."""
        if self.offsets is None:
            if isinstance(rows, Tensor):
                rows = rows.to(self.values.device, non_blocking=self.values.is_cuda)
            return Embeddings(self.values[rows], None if self.mask is None else self.mask[rows])
        chosen = torch.arange(len(self))[rows if isinstance(rows, slice) else rows.cpu()]
        starts, lengths = self.offsets[chosen], self.lengths[chosen]
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        if len(chosen) and bool((chosen == torch.arange(int(chosen[0]), int(chosen[0]) + len(chosen))).all()):
            index: Tensor | slice = slice(int(starts[0]), int(starts[0]) + int(offsets[-1]))
        else:
            shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
            index = (shift + torch.arange(len(shift))).to(self.values.device, non_blocking=self.values.is_cuda)
        indices = None if self.indices is None else self.indices[index]
        return Embeddings(self.values[index], None, offsets, indices, self.dim)

    @property
    def lengths(self) -> Tensor:
        """Tokens, or non-zeros, of every row `(rows,)`, int64, in host memory."""
        if self.offsets is not None:
            return self.offsets.diff()
        return torch.ones(len(self), dtype=torch.int64) if self.mask is None else self.mask.sum(dim=1).cpu()

    def with_values(self, values: Tensor) -> "Embeddings":
        """The same rows with other numbers in the same places."""
        return Embeddings(values, self.mask, self.offsets, self.indices, self.dim)

    def detach(self) -> "Embeddings":
        """The same numbers without their graph."""
        return self.with_values(self.values.detach())

    def to(self, target: torch.device | torch.dtype | str) -> "Embeddings":
        """The same on another device, or in another number format."""
        values = self.values.to(target)
        mask, indices = (None if t is None else t.to(values.device) for t in (self.mask, self.indices))
        return Embeddings(values, mask, self.offsets, indices, self.dim)

    def truncate(self, dim: int) -> "Embeddings":
        """The first `dim` dimensions, scaled back to unit length.

        Raises:
            ShapeError: The embeddings have fewer than `dim` dimensions, or are sparse.
        """
        if self.indices is not None:
            raise ShapeError(f"dim: expected dense or token embeddings to cut to {dim} dimensions, got sparse ones")
        width = self.values.shape[-1]
        if dim > width:
            raise ShapeError(f"dim: expected at most the embedding dimension {width}, got {dim}")
        return self.with_values(F.normalize(self.values[..., :dim], dim=-1))

    # -- from one layout to another

    def pack(self) -> "Embeddings":
        """Packed rows out of padded ones; others stay as they are."""
        if self.mask is None:
            return self
        return Embeddings(self.values[self.mask], offsets=F.pad(self.lengths.cumsum(0), (1, 0)))

    def pad(self) -> "Embeddings":
        """Right-padded rows, with zeros, out of packed ones; others stay as they are."""
        if self.layout != "packed":
            return self
        lengths = self.lengths.to(self.values.device)
        mask = torch.arange(int(self.lengths.max()) if len(self) else 0, device=lengths.device) < lengths[:, None]
        values = self.values.new_zeros(*mask.shape, self.values.shape[-1]).masked_scatter(mask[..., None], self.values)
        return Embeddings(values, mask)

    def unbind(self) -> list[Tensor]:
        """One tensor a row: `(dim,)`, or `(tokens, dim)` for token vectors; csr rows become dense."""
        if self.layout == "csr":
            return list(self.coo().to_dense().unbind())
        packed = self.pack()
        rows = packed.values.unbind() if packed.offsets is None else torch.split(packed.values, packed.lengths.tolist())
        return list(rows)

    def numpy(self) -> Any:
        """An array `(rows, dim)`; a list of `(tokens, dim)` arrays; or the arrays `(offsets, indices, values)` of csr.

        bfloat16, which numpy lacks, becomes float32.
        """
        host = self.pack().detach().to("cpu")
        host = host.to(torch.float32) if host.values.dtype is torch.bfloat16 else host
        if host.offsets is not None and host.indices is not None:
            return host.offsets.numpy(), host.indices.numpy(), host.values.numpy()
        return host.values.numpy() if host.offsets is None else [row.numpy() for row in host.unbind()]

    def coo(self) -> Tensor:
        """A csr matrix as torch's sparse COO tensor `(rows, dim)`, coalesced.

        Raises:
            ShapeError: The layout is another.
        """
        if self.indices is None:
            raise ShapeError(f"coo: expected csr rows, got {self.layout} ones of shape {tuple(self.values.shape)}")
        rows = torch.repeat_interleave(torch.arange(len(self)), self.lengths).to(self.indices.device)
        places, size = torch.stack([rows, self.indices]), (len(self), self.dim or 0)
        return torch.sparse_coo_tensor(places, self.values, size, is_coalesced=True, check_invariants=False)

    @staticmethod
    def csr(matrix: Tensor) -> "Embeddings":
        """The non-zeros of a dense matrix or a sparse COO tensor `(rows, dim)`."""
        sparse = (matrix if matrix.is_sparse else matrix.to_sparse()).coalesce()
        rows, columns = sparse.indices()
        counts = torch.bincount(rows.cpu(), minlength=len(matrix))
        return Embeddings(sparse.values(), None, F.pad(counts.cumsum(0), (1, 0)), columns, matrix.shape[1])

    @staticmethod
    def packed(rows: Sequence[Tensor]) -> "Embeddings":
        """Packed rows out of one tensor `(tokens, dim)` each; at least one."""
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return Embeddings(torch.cat(list(rows)), offsets=F.pad(lengths.cumsum(0), (1, 0)))

    @staticmethod
    def cat(parts: Sequence["Embeddings"]) -> "Embeddings":
        """Rows of all `parts`, which share a layout, in order; padded ones are padded to the longest."""
        if len(parts) == 1:
            return parts[0]
        values = [part.values for part in parts]
        if parts[0].layout == "padded":
            tokens = max(v.shape[1] for v in values)
            masks = [F.pad(p.mask, (0, tokens - p.mask.shape[1])) for p in parts if p.mask is not None]
            return Embeddings(torch.cat([F.pad(v, (0, 0, 0, tokens - v.shape[1])) for v in values]), torch.cat(masks))
        if parts[0].offsets is None:
            return Embeddings(torch.cat(values))
        offsets = F.pad(torch.cat([part.lengths for part in parts]).cumsum(0), (1, 0))
        indices = [part.indices for part in parts if part.indices is not None]
        return Embeddings(torch.cat(values), None, offsets, torch.cat(indices) if indices else None, parts[0].dim)


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
        max_length: Tokens after which their texts are cut, or None.
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
    max_length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Plan of an encoding: the items that go together, and where their results go.

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
    """The encoding engine, as loss strategies see it."""

    def plan(
        self, columns: Sequence[Column], *, mini_batch_size: int | None = None, mini_batch_num_tokens: int | None = None
    ) -> Plan:
        """Cost, distinct items, order and cuts of `columns`."""

    def in_step(self, mini_batches: Sequence[MiniBatch]) -> Sequence[tuple[int, MiniBatch]]:
        """List the forwards to make, each with its place in `mini_batches`; -1 is for the sake of other ranks alone."""

    def prepare(self, mini_batches: Sequence[MiniBatch]) -> Iterator[Features]:
        """Features on the device, one dict a mini-batch, made in the background a few ahead."""

    def run(self, features: Features) -> Embeddings:
        """One forward, with a graph exactly when gradients are enabled."""

    def parameters(self) -> Iterable[Tensor]:
        """The encoder's weights."""

    @property
    def sharded(self) -> bool:
        """Tell whether weights are sharded over ranks, which must then make every forward together."""

    @property
    def stochastic(self) -> bool:
        """Tell whether a forward draws random numbers now (dropout in training mode)."""
