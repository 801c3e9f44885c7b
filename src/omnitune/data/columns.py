"""Datasets as the trainer reads them: rows with their numbers, media undecoded, labels apart from inputs.

A dataset is never changed: no transform is set on it and no column is added. Rows come from the Arrow storage, so an
image arrives as `{"bytes", "path"}` and not as pixels; only a dataset with its own transform is read through it.
"""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

import numpy as np
import pyarrow
import torch.utils.data
from datasets import Dataset, IterableDataset

from omnitune.errors import DatasetError

LABEL_COLUMNS = ("label", "labels", "score", "scores")
"""Names of label columns; the first of them that a dataset has holds its labels."""

RESERVED_COLUMNS = ("dataset_name", "return_loss")
"""Names that mean something to the trainer and cannot be columns."""

PLAIN = (str, int, float, bool, bytes, type(None), np.integer, np.floating, np.bool_)
"""Types whose text says what they hold; everything else is compared by content."""

READ_ROWS = 512
"""Rows read at once where a whole dataset is walked through."""


def label_column(names: Sequence[str], valid: Sequence[str] = LABEL_COLUMNS) -> str | None:
    """The column that holds the labels, or None."""
    return next((name for name in valid if name in names), None)


def input_columns(names: Sequence[str], valid: Sequence[str] = LABEL_COLUMNS) -> list[str]:
    """The columns that are encoded, in their order, which is what gives them their meaning."""
    label = label_column(names, valid)
    return [name for name in names if name != label]


def check_names(names: Sequence[str] | None, dataset: str) -> None:
    """Refuse a dataset whose columns are unknown, reserved or only labels.

    Args:
        names: Column names, or None where a stream does not know them.
        dataset: What to call the dataset in the message.

    Raises:
        DatasetError: See above; the message says how to repair it.
    """
    if names is None:
        raise DatasetError(
            f"{dataset}: expected a dataset with features, got a stream whose columns are unknown; give it some with "
            "dataset.cast(datasets.Features({...}))"
        )
    if reserved := [name for name in names if name in RESERVED_COLUMNS]:
        raise DatasetError(
            f"{dataset}: expected column names other than the reserved {list(RESERVED_COLUMNS)}, got {reserved}; "
            f"rename with dataset.rename_column({reserved[0]!r}, ...)"
        )
    if not input_columns(names):
        raise DatasetError(f"{dataset}: expected at least one column to encode, got only labels {list(names)}")


class Row(dict[str, Any]):
    """One row of a dataset: its values by column name, and where it came from.

    Attributes:
        number: Row number in the dataset as the user knows it, or None where a stream has no stable numbers.
        dataset: The dataset's name among several, or None.
    """

    def __init__(self, values: Mapping[str, Any], number: int | None = None, dataset: str | None = None) -> None:
        super().__init__(values)
        self.number = number
        self.dataset = dataset


class Rows(torch.utils.data.Dataset[Row]):
    """A dataset whose rows know their number and whose media stay undecoded.

    Args:
        dataset: The user's dataset, which is only read.
        name: Its name among several, or None.
        keep: Row numbers to keep, in order; None keeps all.
    """

    def __init__(self, dataset: Dataset, name: str | None = None, keep: Sequence[int] | None = None) -> None:
        self.dataset = dataset if keep is None else dataset.select(keep)
        self.name = name
        self.numbers = range(len(dataset)) if keep is None else list(keep)
        columns = self.dataset.format["columns"]
        self.transformed = self.dataset.format["type"] == "custom"
        self._source = self.dataset if self.transformed else self.dataset.with_format("arrow", columns=columns)

    @property
    def column_names(self) -> list[str]:
        """Columns of a row, in order; a dataset's own transform says which only by running."""
        return list(self[0]) if self.transformed and len(self) else list(self._source.format["columns"])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Row:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row]:
        """Several rows in one read, which is how a data loader asks for a batch."""
        found = [int(index) for index in indices]
        values = self._source.__getitems__(found) if self.transformed else self._source[found].to_pylist()
        return [Row(v, self.numbers[i], self.name) for v, i in zip(values, found, strict=True)]

    def chunks(self) -> Iterator[list[Row]]:
        """All rows in order, some at a time."""
        for start in range(0, len(self), READ_ROWS):
            yield self.__getitems__(range(start, min(start + READ_ROWS, len(self))))


class ManyRows(torch.utils.data.Dataset[Row]):
    """Several `Rows` end to end, indexed as `torch.utils.data.ConcatDataset` is."""

    def __init__(self, datasets: Sequence[Rows]) -> None:
        self.datasets = list(datasets)
        self._ends = list(accumulate(len(d) for d in self.datasets))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Row:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row]:
        """Several rows, one read for each dataset that they are in."""
        found: dict[int, Row] = {}
        parts: dict[int, list[int]] = {}
        for index in indices:
            parts.setdefault(bisect_right(self._ends, index), []).append(index)
        for part, members in parts.items():
            start = self._ends[part] - len(self.datasets[part])
            rows = self.datasets[part].__getitems__([index - start for index in members])
            found.update(zip(members, rows, strict=True))
        return [found[index] for index in indices]


class StreamRows(torch.utils.data.IterableDataset[Row]):
    """A stream whose rows know their number and whose media stay undecoded.

    Args:
        dataset: The user's stream, which is only read.
        name: Its name among several, or None.
    """

    def __init__(self, dataset: IterableDataset, name: str | None = None) -> None:
        self.name = name
        self.dataset = dataset.decode(False) if dataset.features is not None else dataset
        self.column_names = dataset.column_names

    def set_epoch(self, epoch: int) -> None:
        """Tell the stream's own shuffling which epoch it is."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Row]:
        shared = torch.utils.data.get_worker_info() is not None
        for number, values in enumerate(self.dataset):
            yield Row(values, None if shared else number, self.name)


class RoundRobinStreams(torch.utils.data.IterableDataset[list[Row]]):
    """One batch of every stream in turn, until one has no more.

    Args:
        streams: The streams.
        batch_size: Rows a batch, all of one stream.
        drop_last: Whether a last batch of fewer rows is left out.
    """

    def __init__(self, streams: Sequence[StreamRows], batch_size: int, drop_last: bool) -> None:
        self.streams = list(streams)
        self.batch_size = batch_size
        self.drop_last = drop_last

    def set_epoch(self, epoch: int) -> None:
        """Tell every stream's own shuffling which epoch it is."""
        for stream in self.streams:
            stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[Row]]:
        for turn in zip(*(self._batches(stream) for stream in self.streams), strict=False):
            yield from turn

    def _batches(self, stream: StreamRows) -> Iterator[list[Row]]:
        rows = iter(stream)
        while batch := list(islice(rows, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


def content_codes(rows: Rows, columns: Sequence[str], fingerprint: Callable[[Any], Hashable]) -> np.ndarray:
    """A number for every cell, the same for two cells exactly when they hold the same content.

    Plain values are compared by their text across all columns; an image, a recording or a dict by its fingerprint,
    that is by its bytes: nothing is decoded and every file is read once.

    Args:
        rows: The dataset.
        columns: Columns to number.
        fingerprint: Hashable content of an item that is not plain.

    Returns:
        `(rows, columns)`, int64.
    """
    seen: dict[Hashable, int] = {}
    codes = np.zeros((len(rows), len(columns)), dtype=np.int64)
    start = 0
    for chunk in rows.chunks():
        for offset, row in enumerate(chunk):
            for place, column in enumerate(columns):
                key = content_key(row[column], fingerprint)
                codes[start + offset, place] = seen.setdefault(key, len(seen))
        start += len(chunk)
    return codes


def entry_codes(rows: Rows, columns: Sequence[str], fingerprint: Callable[[Any], Hashable]) -> np.ndarray:
    """Number the contents of cells as `content_codes` does, and of lists those of every entry.

    Args:
        rows: The dataset.
        columns: Columns to number.
        fingerprint: Hashable content of an item that is not plain.

    Returns:
        `(rows, inputs of the longest row)`, int64; shorter rows repeat their first number.
    """
    seen: dict[Hashable, int] = {}
    found: list[list[int]] = []
    for chunk in rows.chunks():
        for row in chunk:
            cells = (row[name] for name in columns)
            # A list of dicts is compared as a whole, because it may be one conversation.
            items = (
                item
                for cell in cells
                for item in (cell if isinstance(cell, list) and not any(isinstance(c, dict) for c in cell) else [cell])
            )
            found.append([seen.setdefault(content_key(item, fingerprint), len(seen)) for item in items])
    codes = np.zeros((len(found), max(map(len, found), default=0)), dtype=np.int64)
    for row_codes, numbers in zip(codes, found, strict=True):
        row_codes[:] = numbers[0] if numbers else -1
        row_codes[: len(numbers)] = numbers
    return codes


def has_lists(dataset: Dataset, columns: Sequence[str]) -> bool:
    """Tell whether one of the columns holds lists, by the types in the storage."""
    types = [dataset.data.schema.field(name).type for name in columns if name in dataset.data.schema.names]
    return any(pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) for kind in types)


def content_key(value: Any, fingerprint: Callable[[Any], Hashable]) -> Hashable:
    """Make a key that equal cells share: the text of plain values and of lists of them, else the fingerprint."""
    if isinstance(value, PLAIN):
        return str(value)
    if isinstance(value, list | tuple) and all(isinstance(item, PLAIN) for item in value):
        return str(value)
    return ("content", fingerprint(value))
