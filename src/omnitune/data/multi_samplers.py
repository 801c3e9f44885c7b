"""Samplers over several datasets: which of them the next batch comes from.

Names, arguments and random numbers equal those of Sentence Transformers 6.2.0, as in `samplers`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import accumulate
from typing import Any

import torch
from torch.utils.data import BatchSampler, ConcatDataset, SubsetRandomSampler

from omnitune.data.columns import ManyRows
from omnitune.data.samplers import SetEpochMixin
from omnitune.errors import InputError


class MultiDatasetBatchSamplers(StrEnum):
    """Rules for the dataset that the next batch comes from.

    Example:
        >>> turns = MultiDatasetBatchSamplers.ROUND_ROBIN
        >>> args = SentenceTransformerTrainingArguments("runs", multi_dataset_batch_sampler=turns)
        >>> args.multi_dataset_batch_sampler == "round_robin"
        True
    """

    ROUND_ROBIN = "round_robin"
    """Each in turn, until one is exhausted."""
    PROPORTIONAL = "proportional"
    """At random in proportion to their sizes, until all are exhausted."""


class MultiDatasetDefaultBatchSampler(SetEpochMixin, BatchSampler, ABC):
    """Base of the samplers that take batches from several datasets' samplers.

    Args:
        dataset: The datasets end to end (`ConcatDataset` or anything with `datasets`).
        batch_samplers: One sampler a dataset, in the same order.
        generator: Source of random numbers, shared with the samplers.
        seed: Seed of the first epoch.

    Raises:
        InputError: There is not one sampler for every dataset.

    Example:
        >>> class OnlyTheFirst(MultiDatasetDefaultBatchSampler):
        ...     def __iter__(self):
        ...         return iter(self.batch_samplers[0])
        ...     def __len__(self):
        ...         return len(self.batch_samplers[0])
        >>> args = SentenceTransformerTrainingArguments("runs", multi_dataset_batch_sampler=OnlyTheFirst)
    """

    def __init__(
        self,
        dataset: "ConcatDataset[Any] | ManyRows",
        batch_samplers: list[BatchSampler],
        generator: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        if len(dataset.datasets) != len(batch_samplers):
            raise InputError(
                f"batch_samplers: expected one for each of {len(dataset.datasets)} datasets, got {len(batch_samplers)}"
            )
        first = batch_samplers[0]
        super().__init__(dataset, batch_size=first.batch_size, drop_last=first.drop_last)
        self.dataset = dataset
        self.batch_samplers = batch_samplers
        self.generator = generator
        self.seed = seed

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch here and in the samplers that take one."""
        super().set_epoch(epoch)
        for sampler in self.batch_samplers:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def _start(self) -> list[int]:
        """Seed the generator; the first row of every dataset in the whole."""
        if self.generator is not None and self.seed is not None:
            self.generator.manual_seed(self.seed + self.epoch)
        return [0, *accumulate(len(d) for d in self.dataset.datasets)]  # type: ignore[arg-type]  # all have lengths

    @abstractmethod
    def __iter__(self) -> Iterator[list[int]]:
        """Batches, each from one dataset, as rows of the whole."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches."""


class RoundRobinBatchSampler(MultiDatasetDefaultBatchSampler):
    """One batch of every dataset in turn, until one has no more; arguments of `MultiDatasetDefaultBatchSampler`.

    Example:
        >>> datasets = torch.utils.data.ConcatDataset([range(6), range(2)])
        >>> samplers = [DefaultBatchSampler(one, batch_size=2, drop_last=False) for one in datasets.datasets]
        >>> list(RoundRobinBatchSampler(datasets, samplers))
        [[0, 1], [6, 7]]
    """

    def __iter__(self) -> Iterator[list[int]]:
        starts = self._start()
        for turn in zip(*(iter(sampler) for sampler in self.batch_samplers), strict=False):
            for start, batch in zip(starts, turn, strict=False):
                yield [start + row for row in batch]

    def __len__(self) -> int:
        return min(_length(sampler) for sampler in self.batch_samplers) * len(self.batch_samplers)


class ProportionalBatchSampler(MultiDatasetDefaultBatchSampler):
    """Batches of datasets drawn at random in proportion to their sizes, until all rows are used.

    The arguments are those of `MultiDatasetDefaultBatchSampler`.

    Example:
        >>> datasets = torch.utils.data.ConcatDataset([range(6), range(2)])
        >>> samplers = [DefaultBatchSampler(one, batch_size=2, drop_last=False) for one in datasets.datasets]
        >>> sorted(ProportionalBatchSampler(datasets, samplers))
        [[0, 1], [2, 3], [4, 5], [6, 7]]
    """

    def __iter__(self) -> Iterator[list[int]]:
        starts = self._start()
        tickets = [i for i, sampler in enumerate(self.batch_samplers) for _ in range(_length(sampler))]
        batches = [iter(sampler) for sampler in self.batch_samplers]
        for chosen in SubsetRandomSampler(tickets, generator=self.generator):
            batch = next(batches[chosen], None)
            if batch is not None:
                yield [starts[chosen] + row for row in batch]

    def __len__(self) -> int:
        return sum(_length(sampler) for sampler in self.batch_samplers)


class WeightedBatchSampler(MultiDatasetDefaultBatchSampler):
    """Batches of datasets drawn at random by weight; a dataset that is used up begins again, newly shuffled.

    An epoch has as many batches as all datasets together.

    Args:
        dataset: As of every sampler of several datasets; so are `batch_samplers`, `generator` and `seed`.
        batch_samplers: See there.
        generator: See there.
        seed: See there.
        weights: Share of each dataset, in their order, in any unit; None takes their numbers of batches.
        temperature: Shares are raised to 1 / temperature: 1 keeps them, a large number makes them equal.

    Raises:
        InputError: A weight is not positive, there is not one for every dataset, or the temperature is not positive.

    Example:
        >>> from functools import partial
        >>> mixed = partial(WeightedBatchSampler, temperature=2.0)
        >>> args = SentenceTransformerTrainingArguments("runs", multi_dataset_batch_sampler=mixed)
    """

    def __init__(
        self,
        dataset: "ConcatDataset[Any] | ManyRows",
        batch_samplers: list[BatchSampler],
        generator: torch.Generator | None = None,
        seed: int = 0,
        *,
        weights: Sequence[float] | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(dataset, batch_samplers, generator, seed)
        shares = [float(_length(sampler)) for sampler in batch_samplers] if weights is None else [*map(float, weights)]
        if len(shares) != len(batch_samplers) or not all(0 < share < math.inf for share in shares):
            raise InputError(
                f"weights: expected a positive number for each of {len(batch_samplers)} datasets, got {weights}"
            )
        if not temperature > 0:
            raise InputError(f"temperature: expected a positive number, got {temperature}")
        self.shares = torch.tensor(shares, dtype=torch.float64) ** (1 / temperature)

    def __iter__(self) -> Iterator[list[int]]:
        starts = self._start()
        batches = [iter(sampler) for sampler in self.batch_samplers]
        rounds = [0] * len(batches)
        for chosen in torch.multinomial(self.shares, len(self), replacement=True, generator=self.generator).tolist():
            batch = next(batches[chosen], None)
            if batch is None:
                rounds[chosen] += 1
                sampler = self.batch_samplers[chosen]
                if hasattr(sampler, "set_epoch"):
                    # Far from the epochs to come, so that no later one repeats this order.
                    sampler.set_epoch(self.epoch + 1_000_000 * rounds[chosen])
                batches[chosen] = iter(sampler)
                batch = next(batches[chosen], None)
            if batch is not None:
                yield [starts[chosen] + row for row in batch]

    def __len__(self) -> int:
        return sum(_length(sampler) for sampler in self.batch_samplers)


def _length(sampler: BatchSampler) -> int:
    return len(sampler)
