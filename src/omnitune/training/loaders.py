"""Rows of a batch and loaders of datasets: the part of a trainer that scripts override most."""

from typing import Any, NamedTuple

import torch
from datasets import Dataset
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader

from omnitune.training.feed import MULTI_SAMPLERS, Feed, make_batch_sampler
from omnitune.training.old_names import OldNames


class NamedDataset(NamedTuple):
    """One of several evaluation datasets that were handed to `evaluate`, and its name."""

    dataset: Dataset
    name: str


class Loaders(OldNames):
    """Samplers and loaders of a trainer; `BaseTrainer` sets `_feed`."""

    _feed: Feed

    def get_batch_sampler(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> BatchSampler | None:
        """The sampler of one dataset's batches, as `args.batch_sampler` says; override it for another.

        The arguments are those of `DefaultBatchSampler`.
        """
        return make_batch_sampler(
            self.args.batch_sampler,
            dataset,
            self._feed.codes_of(dataset),
            batch_size=batch_size,
            drop_last=drop_last,
            valid_label_columns=valid_label_columns,
            generator=generator,
            seed=seed,
        )

    def get_multi_dataset_batch_sampler(
        self,
        dataset: "ConcatDataset[Any]",
        batch_samplers: list[BatchSampler],
        generator: torch.Generator | None = None,
        seed: int | None = 0,
    ) -> BatchSampler:
        """The sampler of several datasets' batches, as `args.multi_dataset_batch_sampler` says.

        The arguments are those of `MultiDatasetDefaultBatchSampler`.
        """
        chosen = MULTI_SAMPLERS.get(self.args.multi_dataset_batch_sampler, self.args.multi_dataset_batch_sampler)
        sampler: BatchSampler = chosen(dataset, batch_samplers=batch_samplers, generator=generator, seed=seed)
        return sampler

    def make_loader(self, dataset: Any, batch_size: int, *, training: bool, name: str | None) -> "DataLoader[Any]":
        """A data loader of raw batches, prepared by accelerate."""
        if isinstance(dataset, list):
            nothing: Any = dataset
            return DataLoader(nothing)
        name = name if isinstance(self.eval_dataset, dict) and name in self.eval_dataset else None
        if isinstance(dataset, NamedDataset):
            dataset, name = dataset
        # Ranks that fill up their last training batch from the first would mix datasets; in evaluation they must.
        self.accelerator.even_batches = not training
        loader: DataLoader[Any] = self.accelerator.prepare(self._feed.loader(dataset, name, batch_size, self))
        return loader
