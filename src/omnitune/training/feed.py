"""From the user's datasets to data loaders of raw batches: checked once, numbered once, sampled as asked."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, RandomSampler

from omnitune.data.check import BadItem, find_bad_items, refuse
from omnitune.data.collator import Collator
from omnitune.data.columns import ManyRows, Rows, StreamRows, check_names, content_codes, input_columns
from omnitune.data.samplers import (
    BatchSamplers,
    DefaultBatchSampler,
    GroupByLabelBatchSampler,
    MultiDatasetBatchSamplers,
    NoDuplicatesBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
)
from omnitune.errors import DatasetError, OmnituneError
from omnitune.inputs.detect import inputs_of
from omnitune.inputs.fingerprint import fingerprint
from omnitune.inputs.load import load
from omnitune.model.model import Model
from omnitune.training.arguments import BaseTrainingArguments

logger = logging.getLogger(__name__)

MULTI_SAMPLERS: dict[Any, Any] = {
    MultiDatasetBatchSamplers.ROUND_ROBIN: RoundRobinBatchSampler,
    MultiDatasetBatchSamplers.PROPORTIONAL: ProportionalBatchSampler,
}
"""Sampler of several datasets by the argument's value; classes and functions stand for themselves."""

AnyDataset: TypeAlias = Dataset | DatasetDict | IterableDataset | dict[str, Dataset]


class Source:
    """One dataset of a run: its rows, the columns that are encoded, and the numbers of their contents, found once."""

    def __init__(self, dataset: Dataset, name: str | None, labels: Sequence[str], model: Callable[[], Model]) -> None:
        self.original = dataset
        self.rows = Rows(dataset, name)
        self.columns = input_columns(self.rows.column_names, labels)
        self._labels = labels
        self._model = model
        self._codes: np.ndarray | None = None

    def codes(self) -> np.ndarray:
        """`(rows, columns)` int64: equal where contents are equal."""
        if self._codes is None:
            self._codes = content_codes(self.rows, self.columns, self._fingerprint)
        return self._codes

    def sampled_codes(self) -> np.ndarray:
        """`codes` of the columns that may not repeat in a batch: none whose name is a label's."""
        return self.codes()[:, [i for i, name in enumerate(self.columns) if name not in self._labels]]

    def bad_items(self) -> list[BadItem]:
        """Items that cannot be encoded."""
        media = {part for m in self._model().modalities for part in ([m] if isinstance(m, str) else m)}
        loads = media - {"text", "message"}
        where = "" if self.rows.name is None else f" of {self.rows.name}"
        return find_bad_items(
            self.rows, self.columns, self._load if loads else None, self.codes, label=f"Checking items{where}"
        )

    def leave_out(self, numbers: set[int]) -> None:
        """Drop rows by their numbers in the user's dataset."""
        kept = [i for i, number in enumerate(self.rows.numbers) if number not in numbers]
        if self._codes is not None:
            self._codes = self._codes[kept]
        self.rows = Rows(self.original, self.rows.name, [self.rows.numbers[i] for i in kept])

    def _load(self, cell: Any) -> None:
        model = self._model()
        for item in inputs_of(cell):
            load(item, model.modality_of(item), model.media_policy)

    def _fingerprint(self, cell: Any) -> str:
        # What cannot be read still needs a number of its own; loading it says what is wrong with it.
        try:
            return " ".join(fingerprint(item, self._model().modality_of(item)) for item in inputs_of(cell))
        except (OmnituneError, OSError):
            return f"unreadable {cell!r}"


class MakesSamplers(Protocol):
    """What a feed asks for samplers: the trainer, whose methods a user may override."""

    def get_batch_sampler(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> BatchSampler | None:
        """Sampler of one dataset's batches."""

    def get_multi_dataset_batch_sampler(
        self,
        dataset: "ConcatDataset[Any]",
        batch_samplers: list[BatchSampler],
        generator: torch.Generator | None = None,
        seed: int | None = 0,
    ) -> BatchSampler:
        """Sampler of several datasets' batches."""


class Feed:
    """The datasets of a run.

    Args:
        model: Says what its inputs are and loads them.
        args: Seed, workers, prompts, what to do with bad items.
        collator: Makes batches of rows.
    """

    def __init__(self, model: Model, args: BaseTrainingArguments, collator: Callable[[Any], Any]) -> None:
        self.model = model
        self.args = args
        self.collator = collator
        self.labels: list[str] = list(getattr(collator, "valid_label_columns", Collator().valid_label_columns))
        self._sources: dict[tuple[int, str | None], Source] = {}

    def source(self, dataset: Dataset, name: str | None) -> Source:
        """The source of a dataset, the same for the same dataset."""
        key = (id(dataset), name)
        if key not in self._sources:
            self._sources[key] = Source(dataset, name, self.labels, lambda: self.model)
        return self._sources[key]

    def codes_of(self, dataset: Dataset) -> Callable[[], np.ndarray] | None:
        """Content numbers of a dataset that a sampler was given, or None for a dataset from elsewhere."""
        return next((s.sampled_codes for s in self._sources.values() if s.rows.dataset is dataset), None)

    def screen(self, *datasets: AnyDataset | None) -> list[BadItem]:
        """Find the items of all datasets that cannot be encoded; raise, or leave out their rows.

        A stream is not read ahead. The main process looks; all do the same with what it finds.

        Returns:
            The items whose rows are left out.

        Raises:
            DatasetError: There are some, and `on_bad_item` is "raise"; names dataset, row and column.
        """
        sources = list(dict.fromkeys(source for dataset in datasets for source in self._checkable(dataset)))
        main = self.args.process_index == 0
        found: list[list[BadItem]] = [source.bad_items() if main else [] for source in sources]
        found = broadcast_object_list(found) if found else found
        bad = [item for items in found for item in items]
        if self.args.on_bad_item == "raise":
            refuse(bad)
        for source, items in zip(sources, found, strict=True):
            if items:
                source.leave_out({item.row for item in items})
        if bad:
            logger.warning('on_bad_item="skip": left out the rows of %d items, the first of them %s', len(bad), bad[0])
        return bad

    def _checkable(self, dataset: AnyDataset | None) -> list[Source]:
        return [self.source(d, n) for n, d in named(dataset).items() if isinstance(d, Dataset)]

    def loader(
        self, dataset: AnyDataset, name: str | None, batch_size: int, samplers: MakesSamplers
    ) -> "DataLoader[Any]":
        """A data loader of raw batches, not yet prepared for a device.

        Args:
            dataset: One dataset, several, or a stream.
            name: Name of one dataset among several.
            batch_size: Rows a batch on this device.
            samplers: Makes the samplers.

        Raises:
            DatasetError: The dataset is of another kind.
        """
        # One generator for all samplers, seeded once: the order of draws is part of what a seed means.
        generator = torch.Generator().manual_seed(self.args.seed)
        options = {
            "collate_fn": self.collator,
            "num_workers": self.args.dataloader_num_workers,
            "persistent_workers": self.args.dataloader_persistent_workers,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
            "multiprocessing_context": self.args.dataloader_multiprocessing_context,
            "pin_memory": self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        }
        drop_last = self.args.dataloader_drop_last
        if isinstance(dataset, IterableDataset):
            if self.args.batch_sampler != BatchSamplers.BATCH_SAMPLER:
                logger.warning("batch_sampler: ignored for a stream, which cannot be sampled.")
            return DataLoader(StreamRows(dataset), batch_size=batch_size, drop_last=drop_last, **options)
        if not isinstance(dataset, Dataset | dict):
            raise DatasetError(
                f"dataset: expected a Dataset, several in a dict, or a stream; got {type(dataset).__name__}"
            )
        sources = [self.source(d, n) for n, d in (named(dataset) if name is None else {name: dataset}).items()]
        batch_samplers = [
            samplers.get_batch_sampler(
                source.rows.dataset,
                batch_size=batch_size,
                drop_last=drop_last,
                valid_label_columns=self.labels,
                generator=generator,
                seed=self.args.seed,
            )
            for source in sources
        ]
        if not isinstance(dataset, dict):
            return DataLoader(sources[0].rows, batch_sampler=batch_samplers[0], **options)
        whole = samplers.get_multi_dataset_batch_sampler(
            dataset=ConcatDataset([source.rows.dataset for source in sources]),
            batch_samplers=[sampler for sampler in batch_samplers if sampler is not None],
            generator=generator,
            seed=self.args.seed,
        )
        return DataLoader(ManyRows([source.rows for source in sources]), batch_sampler=whole, **options)


def several(dataset: AnyDataset | None, kind: str) -> Any:
    """The user's dataset as the trainer holds it: a dict becomes a `DatasetDict`; checked by its columns.

    Args:
        dataset: What the user gave.
        kind: `"train_dataset"` or `"eval_dataset"`, for messages.

    Raises:
        DatasetError: It is of an unknown kind, a dict of streams, or has columns that cannot be.
    """
    if dataset is None:
        return None
    streams = isinstance(dataset, dict) and any(isinstance(d, IterableDataset) for d in dataset.values())
    if isinstance(dataset, IterableDatasetDict) or streams:
        raise DatasetError(
            f"{kind}: expected several datasets to be Datasets, got streams; give one stream, or load them"
        )
    if not isinstance(dataset, Dataset | IterableDataset | dict):
        raise DatasetError(f"{kind}: expected a Dataset, a dict of them or a stream, got {type(dataset).__name__}")
    for name, one in named(dataset).items():
        check_names(one.column_names, kind if name is None else f"{kind} {name!r}")
    return DatasetDict(dataset) if isinstance(dataset, dict) else dataset


def named(dataset: Any) -> Mapping[str | None, Any]:
    """The datasets of a dataset by name: None for a single one, nothing for None."""
    if dataset is None:
        return {}
    return dict(dataset) if isinstance(dataset, dict) else {None: dataset}


def make_batch_sampler(
    chosen: Any, dataset: Any, codes: Callable[[], np.ndarray] | None, *, generator: Any, **options: Any
) -> BatchSampler | None:
    """The sampler that `args.batch_sampler` asks for; None for a stream.

    Args:
        chosen: A `BatchSamplers` value, a class or a function.
        dataset: The dataset.
        codes: Content numbers of its cells, if they are known.
        generator: Source of random numbers.
        **options: The sampler's other arguments.
    """
    if isinstance(dataset, IterableDataset):
        return None
    options["generator"] = generator
    sampler: BatchSampler
    if not isinstance(chosen, BatchSamplers):
        sampler = chosen(dataset, **options)
    elif chosen in (BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED):
        sampler = NoDuplicatesBatchSampler(dataset, **options, codes=codes)
    elif chosen == BatchSamplers.GROUP_BY_LABEL:
        sampler = GroupByLabelBatchSampler(dataset, **options)
    else:
        sampler = DefaultBatchSampler(RandomSampler(dataset, generator=generator), **options)
    return sampler
