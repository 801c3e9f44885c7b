"""From the user's datasets to data loaders of raw batches: checked once, numbered once, sampled as asked."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, RandomSampler

from omnitune import io
from omnitune.data.check import BadItem, refuse
from omnitune.data.collator import Collator
from omnitune.data.columns import (
    ManyRows,
    RoundRobinStreams,
    StreamRows,
    check_names,
    input_columns,
)
from omnitune.data.multi_samplers import MultiDatasetBatchSamplers, ProportionalBatchSampler, RoundRobinBatchSampler
from omnitune.data.samplers import (
    BatchSamplers,
    DefaultBatchSampler,
    GroupByLabelBatchSampler,
    NoDuplicatesBatchSampler,
)
from omnitune.errors import DatasetError
from omnitune.inputs.detect import inputs_of
from omnitune.model.base import Model
from omnitune.ops.collectives import exchanged
from omnitune.training.arguments import BaseTrainingArguments
from omnitune.training.source import Source

logger = logging.getLogger(__name__)

MULTI_SAMPLERS: dict[Any, Any] = {
    MultiDatasetBatchSamplers.ROUND_ROBIN: RoundRobinBatchSampler,
    MultiDatasetBatchSamplers.PROPORTIONAL: ProportionalBatchSampler,
}
"""Sampler of several datasets by the argument's value; classes and functions stand for themselves."""

CHECKED = "checked_items.json"
"""File in the output folder that says what the check of a run found, so that its resumption does not load all again."""

AnyDataset: TypeAlias = (
    Dataset | DatasetDict | IterableDataset | IterableDatasetDict | dict[str, Dataset] | dict[str, IterableDataset]
)


class MakesSamplers(Protocol):
    """The makers of samplers: the trainer, whose methods a user may override."""

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

    def screen(self, *datasets: AnyDataset | None, resuming: bool = False) -> list[BadItem]:
        """Find the items and labels of all datasets that cannot be used; raise, or leave out their rows.

        A stream is not read ahead, and what was looked at once is not looked at again: not in this process, and not by
        a run that resumes an earlier one in the same output folder.

        Args:
            *datasets: For training and for evaluation.
            resuming: Whether what the interrupted run found still holds.

        Returns:
            The items whose rows are left out.

        Raises:
            DatasetError: There are some, and `on_bad_item` is "raise"; names dataset, row and column.
        """
        warn_of_unknown_names(self.args, datasets, self.labels)
        every = dict.fromkeys(source for dataset in datasets for source in self._checkable(dataset))
        sources = [source for source in every if not source.checked]
        if isinstance(self.collator, Collator):
            for source in sources:
                source.check_kinds()
        noted = Path(self.args.output_dir) / CHECKED
        # What the first rank knows is what all go by: another may see another disk.
        known: Any = exchanged((io.read_json_or_none(noted) if resuming else None) or {})[0]
        found: list[list[BadItem]] = []
        notes: dict[str, list[dict[str, Any]]] = {}
        for source in sources:
            key = source.key() if source.loads else ""
            earlier = known.get(key)
            items = (
                source.bad_items(load=self.args.check_items)
                if earlier is None
                else [BadItem(**{**item, "dataset": source.rows.name}) for item in earlier]
            )
            found.append(items)
            if key and self.args.check_items:
                notes[key] = [dataclasses.asdict(item) for item in items]
        bad = [item for items in found for item in items]
        if self.args.on_bad_item == "raise":
            refuse(bad)
        for source, items in zip(sources, found, strict=True):
            source.checked = True
            if items:
                source.leave_out({item.row for item in items})
            if not len(source.rows):
                raise DatasetError(f"every row has an item that cannot be encoded, the first of them {items[0]}")
        if notes and self.args.process_index == 0:
            noted.parent.mkdir(parents=True, exist_ok=True)
            io.write_json(noted, notes)
        if bad:
            logger.warning('on_bad_item="skip": left out the rows of %d items, the first of them %s', len(bad), bad[0])
        return bad

    def keep_caches(self, dataset: AnyDataset | None) -> list[str]:
        """Let the model keep processed inputs and outputs of frozen towers, as `input_cache` and `tower_cache` say.

        Args:
            dataset: What is trained on; one item of each of its columns is encoded to know, where a column holds the
                model's inputs and not one side of them.

        Returns:
            What keeping outputs saves and costs.
        """
        inputs, towers = self.model.engine.inputs, self.model.engine.towers
        # "off" is the default, and leaves inputs as the model keeps them.
        if self.args.input_cache != "off" and (inputs.store is None or self.args.input_cache != "auto"):
            inputs.keep(self.args.input_cache)
        if towers.store is None or self.args.tower_cache != "auto":
            towers.keep(self.args.tower_cache)
        lines: list[str] = []
        foreseen = towers.store is not None and self.model.family.arity == 1
        for source in self._checkable(dataset) if foreseen else []:
            for place, name in enumerate(source.columns):
                cells = (inputs_of(row[name]) for row in next(source.rows.chunks(), []))
                item = next((item for cell in cells for item in cell if item is not None), None)
                said = None if item is None else self.model.engine.forecast(item)
                if said is not None:
                    lines.append(f"column {name!r}: {said(len(np.unique(source.codes()[:, place])))}")
        return lines

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
        if isinstance(dataset, IterableDataset | IterableDatasetDict):
            return self._streaming(
                {name: dataset} if isinstance(dataset, IterableDataset) else dataset, batch_size, options
            )
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

    def _streaming(
        self, streams: Mapping[str | None, IterableDataset], batch_size: int, options: dict[str, Any]
    ) -> "DataLoader[Any]":
        """A data loader of one stream, or of several in turn.

        Raises:
            DatasetError: Several are to be mixed in proportion to their lengths, which are unknown.
        """
        if self.args.batch_sampler != BatchSamplers.BATCH_SAMPLER:
            logger.warning("batch_sampler: ignored for a stream, which cannot be sampled.")
        rows = [StreamRows(stream, name) for name, stream in streams.items()]
        drop_last = self.args.dataloader_drop_last
        if len(rows) == 1:
            return DataLoader(rows[0], batch_size=batch_size, drop_last=drop_last, **options)
        if self.args.multi_dataset_batch_sampler != MultiDatasetBatchSamplers.ROUND_ROBIN:
            raise DatasetError(
                "multi_dataset_batch_sampler: expected ROUND_ROBIN for several streams, whose lengths are unknown, "
                f"got {self.args.multi_dataset_batch_sampler}; for other proportions, make one stream of those with "
                "equal columns by datasets.interleave_datasets([...], probabilities=[...])"
            )
        # A sample is a whole batch, so that ranks take turns at batches and never mix datasets.
        options = {**options, "collate_fn": partial(_collate_only, self.collator)}
        return DataLoader(RoundRobinStreams(rows, batch_size, drop_last), batch_size=1, **options)


def warn_of_unknown_names(
    args: BaseTrainingArguments, datasets: Sequence[AnyDataset | None], labels: Sequence[str]
) -> None:
    """Say which names in `args.prompts` and `args.router_mapping` are no column, or no dataset, and so say nothing.

    Args:
        args: The arguments.
        datasets: For training and for evaluation.
        labels: Names that label columns may have.
    """
    every = [(name, one) for dataset in datasets for name, one in named(dataset).items()]
    columns = {column for _, one in every for column in input_columns(one.column_names or (), labels)}
    known = columns | {name for name, _ in every if name is not None}
    for argument in ("prompts", "router_mapping"):
        mapping = getattr(args, argument)
        if not every or not isinstance(mapping, Mapping):
            continue
        inner = {name for value in mapping.values() if isinstance(value, Mapping) for name in value}
        unknown = sorted({*mapping} - known | inner - columns)
        if unknown:
            logger.warning("%s: %s have no effect; the names are %s.", argument, unknown, sorted(known))


def several(dataset: AnyDataset | None, kind: str) -> Any:
    """The user's dataset as the trainer holds it: a dict becomes a `DatasetDict`; checked by its columns.

    Args:
        dataset: What the user gave.
        kind: `"train_dataset"` or `"eval_dataset"`, for messages.

    Raises:
        DatasetError: It is of an unknown kind, a dict of datasets and streams, or has columns that cannot be.
    """
    if dataset is None:
        return None
    streams = [isinstance(d, IterableDataset) for d in dataset.values()] if isinstance(dataset, dict) else []
    if any(streams) and not all(streams):
        raise DatasetError(
            f"{kind}: expected several datasets to be all Datasets or all streams, got both; make streams of the "
            "others with dataset.to_iterable_dataset()"
        )
    if not isinstance(dataset, Dataset | IterableDataset | dict):
        raise DatasetError(f"{kind}: expected a Dataset, a dict of them or a stream, got {type(dataset).__name__}")
    for name, one in named(dataset).items():
        shown = kind if name is None else f"{kind} {name!r}"
        check_names(one.column_names, shown)
        if isinstance(one, Dataset) and not len(one):
            raise DatasetError(f"{shown}: expected rows, got an empty dataset")
    if not isinstance(dataset, dict):
        return dataset
    return IterableDatasetDict(dataset) if any(streams) else DatasetDict(dataset)


def _collate_only(collator: Callable[[Any], Any], samples: Sequence[Any]) -> Any:
    """The collated batch of a data loader whose only sample is a batch of rows."""
    [rows] = samples
    return collator(rows)


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
