"""Columns whose cells are lists: the positives or negatives of a row, as many as each has."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.inputs.detect import inputs_of, is_conversation
from omnitune.types import Column, Features, Labels

Lists: TypeAlias = Literal["refused", "rows", "documents", "cells"]
"""How a loss takes lists: not at all; a row for every entry; as the documents of a row; or as they are."""


class Owners(Tensor):
    """Row of every document, column after column `(documents,)`, int64: a type of its own, as it travels as labels."""


def holds_lists(column: Column | Features) -> bool:
    """Tell whether a column of raw items has a list of inputs in a cell; a conversation is one input."""
    if not isinstance(column, Column):
        return False
    return any(isinstance(cell, list) and not is_conversation(cell) for cell in column.items)


def laid_out(
    columns: Sequence[Column | Features], labels: Labels | None, lists: Lists, loss: str
) -> tuple[list[Column | Features], Labels | None]:
    """Lay lists out as a loss takes them; columns without lists come back as they are.

    Args:
        columns: The inputs of the loss, at least one of which holds lists.
        labels: The labels of the rows.
        lists: How the loss takes lists.
        loss: Name of the loss, for messages.

    Returns:
        Columns of single inputs, and their labels. For "rows" each has as many as there are combinations of entries in
        the rows; for "documents" a column of lists has all its entries and says in `lengths` how many each row has.

    Raises:
        InputError: The loss takes no lists, the first column of documents' queries holds them, or all are empty.
        ShapeError: A row has neither one label nor one an entry.
    """
    raw = [column for column in columns if isinstance(column, Column)]
    listed = [column for column in raw if holds_lists(column)]
    if lists == "refused" or len(raw) < len(columns):
        raise InputError(
            f"{loss}: expected one input a cell, got lists in column {listed[0].name!r}; give each entry a column or a "
            "row of its own, or train with a loss that takes lists, such as MultipleNegativesRankingLoss"
        )
    if lists == "rows":
        return _as_rows(raw, labels, loss)
    if holds_lists(raw[0]):
        raise InputError(
            f"{loss}: expected one query a row in column {raw[0].name!r}, got lists, which only documents may be"
        )
    if len(raw) > 1 and not any(inputs_of(cell) for cell in raw[1].items):
        raise InputError(f"{raw[1].place(0)} and the rows batched with it: expected a positive, got empty lists")
    return [_flat(column) if holds_lists(column) else column for column in raw], labels


def owners(columns: Sequence[Column | Features]) -> Owners | None:
    """The row of every document, or None where each column has one a row."""
    raw = [column for column in columns if isinstance(column, Column)]
    if all(column.lengths is None for column in raw):
        return None
    counts = [torch.tensor(column.lengths or [1] * len(column), dtype=torch.int64) for column in raw[1:]]
    return torch.cat([torch.repeat_interleave(count) for count in counts]).as_subclass(Owners)


def owners_in(labels: Tensor | None) -> Tensor | None:
    """The rows of documents as a plain tensor, or None where labels are something else."""
    return labels.as_subclass(Tensor) if isinstance(labels, Owners) else None


def _flat(column: Column) -> Column:
    cells = [inputs_of(cell) for cell in column.items]
    numbers = range(len(cells)) if column.rows is None else column.rows
    return replace(
        column,
        items=[item for cell in cells for item in cell],
        rows=[number for number, cell in zip(numbers, cells, strict=True) for _ in cell],
        lengths=[len(cell) for cell in cells],
    )


def _as_rows(
    columns: Sequence[Column], labels: Labels | None, loss: str
) -> tuple[list[Column | Features], Labels | None]:
    """A row for every combination of entries, with the label of the row or of the entry."""
    listed = [holds_lists(column) for column in columns]
    cells = zip(*([inputs_of(cell) for cell in column.items] for column in columns), strict=True)
    combined = [list(product(*row)) for row in cells]
    rows = [row for row, entries in enumerate(combined) for _ in entries]
    if not rows:
        raise InputError(f"{columns[0].place(0)} and the rows batched with it: expected entries, got empty lists")
    spread: list[Column | Features] = [
        replace(
            column,
            items=[entry[place] for entries in combined for entry in entries],
            rows=[row if column.rows is None else column.rows[row] for row in rows],
        )
        for place, column in enumerate(columns)
    ]
    if labels is None or (isinstance(labels, Tensor) and labels.dim() == 1):
        return spread, None if labels is None else labels[torch.tensor(rows, device=labels.device)]
    given: list[Tensor] = []
    for row, (label, entries) in enumerate(zip(labels, combined, strict=True)):
        if sum(listed) == 1 and len(label) == len(entries):
            given += label
        elif sum(listed) == 1 and len(label) == len(entries) + 1:
            given += [torch.stack([label[0], one]) for one in label[1:]]  # a teacher's scores, the positive's first
        else:
            raise ShapeError(
                f"{columns[listed.index(True)].place(row)}: {loss} expected one label, or one for each of the "
                f"{len(entries)} entries, got {len(label)}"
            )
    return spread, torch.stack(given)
