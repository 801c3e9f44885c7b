"""Samplers: the rows of a batch; see `multi_samplers` for the dataset of the next one.

Names, arguments and the random numbers that are drawn equal those of Sentence Transformers 6.2.0, so a script gets the
same batches in the same order; how a sampler finds them is ours.
"""

import hashlib
import logging
import pickle
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import BatchSampler

from omnitune.data.columns import RESERVED_COLUMNS, Rows, content_codes
from omnitune.errors import DatasetError, InputError

logger = logging.getLogger(__name__)

RESAMPLE_PASSES = 2
"""How often rows may be drawn again to reach the promised number of batches."""


class BatchSamplers(StrEnum):
    """Ways to put the rows of one dataset into batches.

    Example:
        >>> args = SentenceTransformerTrainingArguments("runs", batch_sampler=BatchSamplers.NO_DUPLICATES)
        >>> args.batch_sampler == "no_duplicates"
        True
    """

    BATCH_SAMPLER = "batch_sampler"
    """Shuffled rows, one after another."""
    NO_DUPLICATES = "no_duplicates"
    """No content twice in a batch, in whatever column: an in-batch negative is never the positive."""
    NO_DUPLICATES_HASHED = "no_duplicates_hashed"
    """The same: contents are numbered once in either case."""
    GROUP_BY_LABEL = "group_by_label"
    """At least two rows of at least two labels in a batch."""


class SetEpochMixin:
    """A sampler that is told the epoch, so that every epoch draws other random numbers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration belongs to."""
        self.epoch = epoch


class DefaultBatchSampler(SetEpochMixin, BatchSampler):
    """Consecutive rows of a sampler; the base of the other samplers of one dataset.

    Args:
        dataset: A dataset, or a sampler of its rows.
        batch_size: Rows a batch.
        drop_last: Whether an incomplete last batch is dropped.
        valid_label_columns: Names that a label column may have.
        generator: Source of random numbers, shared by all samplers of a run.
        seed: Seed of the first epoch; each epoch adds one.

    Example:
        >>> list(DefaultBatchSampler(range(5), batch_size=2, drop_last=False))
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last)
        self.valid_label_columns = valid_label_columns
        self.generator = generator
        self.seed = seed

    def _reseed(self) -> None:
        if self.generator is not None and self.seed is not None:
            self.generator.manual_seed(self.seed + self.epoch)


class GroupByLabelBatchSampler(DefaultBatchSampler):
    """Batches in which every label occurs at least twice, for losses that mine triplets in the batch.

    Labels take turns, in a new order each round, and give two rows a turn, until fewer than two labels are left.
    The arguments are those of `DefaultBatchSampler`.

    Raises:
        InputError: `batch_size` is odd or below 4.
        DatasetError: There is no label column, or fewer than two labels have two rows.

    Example:
        >>> rows = Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 0, 0, 0, 1, 1, 1, 1]})
        >>> sampler = GroupByLabelBatchSampler(rows, batch_size=4, drop_last=True, valid_label_columns=["label"])
        >>> [sorted(rows[batch]["label"]) for batch in sampler]
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        self.dataset = dataset
        if batch_size < 4 or batch_size % 2 == 1:
            raise InputError(f"batch_size: grouping by label needs an even number of at least 4, got {batch_size}")
        members: dict[Any, list[int]] = defaultdict(list)
        valid = list(valid_label_columns or [])
        name = next((name for name in valid if name in dataset.column_names), None)
        if name is None:
            raise DatasetError(
                f"grouping by label needs a column named one of {valid}, got the columns {dataset.column_names}"
            )
        for row, label in enumerate(list(dataset[name])):
            members[label].append(row)
        self.groups = {label: rows for label, rows in members.items() if len(rows) >= 2}
        if len(self.groups) < 2:
            raise DatasetError(
                "grouping by label needs at least 2 distinct labels with at least 2 rows each, "
                f"got {len(self.groups)} such among {len(members)} labels"
            )
        pairs = sorted((len(rows) // 2 for rows in self.groups.values()), reverse=True)
        self._stream_length = 2 * sum(min(count, pairs[1]) for count in pairs)

    def __iter__(self) -> Iterator[list[int]]:
        self._reseed()
        queues: dict[Any, deque[int]] = {}
        for label, rows in self.groups.items():
            order = torch.randperm(len(rows), generator=self.generator)[: len(rows) // 2 * 2]
            queues[label] = deque(rows[i] for i in order)
        batch: list[int] = []
        for row in self._stream(queues):
            batch.append(row)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if not self.drop_last and len(batch) >= 4:
            yield batch

    def _stream(self, queues: dict[Any, deque[int]]) -> Iterator[int]:
        waiting = list(queues)
        given, last = 0, None
        while len(waiting) >= 2:
            waiting = [waiting[i] for i in torch.randperm(len(waiting), generator=self.generator)]
            # Two turns of one label in one batch would let a last batch of four hold a single label.
            if given % self.batch_size and waiting[0] == last:
                waiting[0], waiting[1] = waiting[1], waiting[0]
            for label in waiting:
                yield queues[label].popleft()
                yield queues[label].popleft()
                given += 2
            last = waiting[-1]
            waiting = [label for label in waiting if queues[label]]

    def __len__(self) -> int:
        full, rest = divmod(self._stream_length, self.batch_size)
        return full + (not self.drop_last and rest >= 4)


class NoDuplicatesBatchSampler(DefaultBatchSampler):
    """Batches in which no content occurs twice, in whatever column.

    Contents are numbered once for the run (`content_codes`): texts by their characters, images by their bytes without
    decoding them. A row that clashes waits for a later batch. When duplicates leave fewer batches than `len` promised
    to the scheduler, rows are shuffled and drawn again, at most `RESAMPLE_PASSES` times.

    Args:
        dataset: The dataset; its label columns do not count.
        batch_size: Rows a batch.
        drop_last: Whether incomplete batches are dropped.
        valid_label_columns: Names that label columns may have.
        generator: Source of random numbers.
        seed: Seed of the first epoch.
        precompute_hashes: Accepted for compatibility; contents are always numbered once.
        precompute_num_proc: Accepted for compatibility.
        precompute_batch_size: Accepted for compatibility.
        fingerprint: Content of an item that is not plain text or a number, by default of its pickled form.
        codes: `(rows, columns)` int64 numbers of the contents where they are known already.

    Example:
        >>> rows = Dataset.from_dict({"query": ["oven", "oven", "pump"], "page": ["heats", "is hot", "turns"]})
        >>> sampler = NoDuplicatesBatchSampler(rows, batch_size=2, drop_last=False)
        >>> all(len(set(rows[batch]["query"])) == len(batch) for batch in sampler)
        True
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
        precompute_hashes: bool = False,
        precompute_num_proc: int | None = None,
        precompute_batch_size: int = 1000,
        *,
        fingerprint: Callable[[Any], Hashable] | None = None,
        codes: Callable[[], np.ndarray] | None = None,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        del precompute_num_proc, precompute_batch_size
        self.dataset = dataset
        self.precompute_hashes = precompute_hashes
        self._fingerprint = fingerprint or _pickled
        self._find_codes = codes or self._read_codes
        self._codes: np.ndarray | None = None

    def __iter__(self) -> Iterator[list[int]]:
        self._reseed()
        if len(self.dataset) == 0:
            return
        if self._codes is None:
            self._codes = self._find_codes()
        contents = [frozenset(row) for row in self._codes.tolist()]
        given = 0
        # The first pass is never cut short: without drop_last it may give more, smaller batches than promised.
        for batch in self._one_pass(contents):
            yield batch
            given += 1
        first = given
        for _ in range(RESAMPLE_PASSES if 0 < first < len(self) else 0):
            for batch in self._one_pass(contents):
                yield batch
                given += 1
                if given == len(self):
                    self._warn_short(first)
                    return
        if given < len(self):
            self._warn_short(given)

    def _one_pass(self, contents: Sequence[frozenset[int]]) -> Iterator[list[int]]:
        """Batches from one shuffle; a row that clashes with the batch keeps its place for the next."""
        kind = torch.int32 if len(contents) <= np.iinfo(np.int32).max else torch.int64
        order = torch.randperm(len(contents), generator=self.generator, dtype=kind).tolist()
        following = [*range(1, len(order)), -1]
        head = 0
        while head != -1:
            batch: list[int] = []
            taken: set[int] = set()
            previous, position = -1, head
            while position != -1 and len(batch) < self.batch_size:
                row, after = order[position], following[position]
                if taken.isdisjoint(contents[row]):
                    batch.append(row)
                    taken |= contents[row]
                    if previous == -1:
                        head = after
                    else:
                        following[previous] = after
                else:
                    previous = position
                position = after
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def _read_codes(self) -> np.ndarray:
        skipped = {*(self.valid_label_columns or []), *RESERVED_COLUMNS}
        rows = Rows(self.dataset)
        names = [name for name in rows.column_names if name not in skipped]
        return content_codes(rows, names, self._fingerprint)

    def _warn_short(self, given: int) -> None:
        logger.warning(
            "NO_DUPLICATES: one pass over %d rows gives %d of %d batches of %d without a repeated value; rows are "
            "drawn again where that helps. A smaller batch size avoids it.",
            len(self.dataset), given, len(self), self.batch_size,
        )  # fmt: skip

    def __len__(self) -> int:
        """Batches promised to the data loader and the scheduler: rows over batch size."""
        rows = len(self.dataset)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)


def _pickled(value: Any) -> str:
    return hashlib.sha256(pickle.dumps(value)).hexdigest()
