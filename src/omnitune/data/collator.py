"""Dataset rows to a batch of raw columns: nothing is decoded, tokenised or padded here."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from omnitune.data.check import label_fault
from omnitune.data.columns import LABEL_COLUMNS, Row, input_columns, label_column
from omnitune.errors import DatasetError, InputError
from omnitune.types import Batch, Column, Labels

logger = logging.getLogger(__name__)

ByColumn = str | Mapping[str, str] | Mapping[str, Mapping[str, str]] | None
"""One text for all columns; by column; by dataset; or by dataset and column."""

CUSTOMARY = (
    ("anchor", "positive", "negative"),
    ("question", "answer"),
    ("query", "response"),
    ("hypothesis", "entailment", "contradiction"),
)
"""Column names that are customary together, in the order in which losses take them."""


@dataclass
class Collator:
    """Collates rows into a `Batch`.

    The order of the input columns is their meaning: a loss takes the first as the anchor, the second as its positive.

    Attributes:
        valid_label_columns: Names of label columns; the first that a row has holds the labels.
        router_mapping: Route by column, or by dataset and column.
        prompts: Prompt of all columns, by column, by dataset, or by dataset and column.
        roles: Roles of the first input column and of the others, where `router_mapping` says none.
        max_length: Tokens after which texts are cut: of all, or by role; None leaves it to the model.
    """

    valid_label_columns: list[str] = field(default_factory=lambda: list(LABEL_COLUMNS))
    router_mapping: ByColumn = None
    prompts: ByColumn = None
    roles: tuple[str, str] | None = None
    max_length: int | Mapping[str, int] | None = None
    _known: set[tuple[str, ...]] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse the function that Sentence Transformers' collators take first.

        Raises:
            InputError: `valid_label_columns` is a function.
        """
        if callable(self.valid_label_columns):
            raise InputError(
                "valid_label_columns: expected names of columns, got a function; batches are raw columns here and the "
                "model preprocesses them itself, so leave the preprocess function out: Collator()"
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate rows of one dataset.

        Args:
            rows: `Row`s, or plain dicts whose place in the dataset is then unknown.

        Returns:
            The raw columns in the order of the dataset's, the labels, the dataset's name.

        Raises:
            DatasetError: A label is neither a number nor a list of numbers.
            InputError: Prompts or routes are given by dataset, and there is only one, without a name.
        """
        names = list(rows[0])
        dataset = getattr(rows[0], "dataset", None)
        self._warn_once(names)
        label = label_column(names, self.valid_label_columns)
        routes = _for_dataset(self.router_mapping, dataset, "router_mapping")
        prompts = _for_dataset(self.prompts, dataset, "prompts")
        numbers = [row.number for row in rows if isinstance(row, Row) and row.number is not None]
        columns = []
        for position, name in enumerate(input_columns(names, self.valid_label_columns)):
            role = routes.get(name) if isinstance(routes, Mapping) else routes
            role = self.roles[min(position, 1)] if role is None and self.roles is not None else role
            limit = self.max_length.get(role or "") if isinstance(self.max_length, Mapping) else self.max_length
            columns.append(
                Column(
                    name=name,
                    items=[row[name] for row in rows],
                    role=role,
                    prompt=prompts.get(name) if isinstance(prompts, Mapping) else prompts,
                    rows=numbers if len(numbers) == len(rows) else None,
                    dataset=dataset,
                    max_length=limit,
                )
            )
        return {
            "columns": columns,
            "labels": None if label is None else _labels([row[label] for row in rows], label, columns[0]),
            "dataset": dataset,
        }

    def _warn_once(self, names: Sequence[str]) -> None:
        """Say when the names of the columns suggest that their order is wrong, or that one holds ids."""
        if tuple(names) in self._known:
            return
        self._known.add(tuple(names))
        inputs = input_columns(names, self.valid_label_columns)
        for customary in CUSTOMARY:
            moved = [n for n in customary if n in inputs and inputs.index(n) != customary.index(n)]
            if moved:
                logger.warning(
                    "column %r is number %d of %s, and is customarily number %d. The order is what gives columns their "
                    "meaning (the first is the anchor, the second its positive), not their names. To reorder: "
                    "dataset.select_columns(%s)",
                    moved[0], inputs.index(moved[0]) + 1, inputs, customary.index(moved[0]) + 1,
                    [n for n in customary if n in inputs],
                )  # fmt: skip
                break
        ids = [n for n in inputs if n == "id" or n.endswith(("_id", "_ids", "_idx"))]
        if ids:
            logger.warning(
                "columns %s look like ids and will be encoded as inputs; replace ids by what they stand for, or drop "
                "them with dataset.remove_columns(%s)",
                ids, ids,
            )  # fmt: skip


def _for_dataset(mapping: ByColumn, dataset: str | None, argument: str) -> str | Mapping[str, str]:
    """Take the setting for the columns of one dataset: one text for all, or a mapping by column."""
    if not mapping:
        return {}
    if isinstance(mapping, str):
        return mapping
    if dataset is not None and dataset in mapping:
        return mapping[dataset]
    if any(isinstance(value, Mapping) for value in mapping.values()):
        if dataset is None:
            raise InputError(
                f"{argument}: expected a mapping by column for a single dataset, got one by dataset {list(mapping)}; "
                "give the datasets as a dict, or drop the outer level"
            )
        return {}
    return {key: value for key, value in mapping.items() if isinstance(value, str)}


def _labels(values: Sequence[Any], name: str, column: Column) -> Labels:
    for index, fault in enumerate(map(label_fault, values)):
        if fault is not None:
            raise DatasetError(f"{dataclasses.replace(column, name=name).place(index)}: {fault}")
    try:
        if isinstance(values[0], list | tuple) and len({len(value) for value in values}) > 1:
            return [torch.tensor(value) for value in values]
        return torch.stack(list(values)) if isinstance(values[0], Tensor) else torch.tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(
            f"{dataclasses.replace(column, name=name).place(0)} and the rows batched with it: expected labels of one "
            f"shape, got {values[0]!r:.80}, ... ({error})"
        ) from error
