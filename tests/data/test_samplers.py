"""Batches of every sampler, and that they equal those of Sentence Transformers for the same seed."""

import importlib

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import ConcatDataset, RandomSampler

from omnitune import sampler as ours
from omnitune.errors import DatasetError, InputError


def pairs(rows: int, distinct: int, seed: int = 0) -> Dataset:
    """Pairs of texts in which `distinct` values recur, and a label."""
    draw = np.random.default_rng(seed)
    return Dataset.from_dict(
        {
            "anchor": [f"text {i}" for i in draw.integers(0, distinct, rows)],
            "positive": [f"text {i}" for i in draw.integers(0, distinct, rows)],
            "label": draw.integers(0, 5, rows).tolist(),
        }
    )


def options(**changes: object) -> dict[str, object]:
    return {
        "batch_size": 8,
        "drop_last": False,
        "valid_label_columns": ["label"],
        "generator": torch.Generator().manual_seed(7),
        "seed": 7,
        **changes,
    }


def epochs(sampler: object, count: int = 3) -> list[list[list[int]]]:
    found = []
    for epoch in range(count):
        sampler.set_epoch(epoch)
        found.append([list(map(int, batch)) for batch in sampler])
    return found


def test_no_duplicates_keeps_every_row_and_no_value_twice() -> None:
    dataset = pairs(200, 120)
    sampler = ours.NoDuplicatesBatchSampler(dataset, **options())
    batches = list(sampler)
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    for batch in batches:
        values = [{dataset[row]["anchor"], dataset[row]["positive"]} for row in batch]
        assert sum(map(len, values)) == len(set().union(*values))


def test_no_duplicates_reaches_its_length_by_drawing_again(caplog: pytest.LogCaptureFixture) -> None:
    sampler = ours.NoDuplicatesBatchSampler(pairs(100, 26), **options(drop_last=True))
    first_pass = len(list(sampler._one_pass([frozenset(r) for r in sampler._read_codes().tolist()])))
    batches = list(sampler)
    assert first_pass < len(sampler) == len(batches) == 12
    assert "drawn again" in caplog.text


def test_no_duplicates_reads_contents_once() -> None:
    calls = []

    def codes() -> np.ndarray:
        calls.append(1)
        return np.arange(40).reshape(20, 2)

    sampler = ours.NoDuplicatesBatchSampler(pairs(20, 9), **options(), codes=codes)
    assert [len(batch) for batch in sampler] == [8, 8, 4]
    assert [len(batch) for batch in sampler] == [8, 8, 4]
    assert len(calls) == 1


def test_no_duplicates_of_nothing() -> None:
    assert list(ours.NoDuplicatesBatchSampler(pairs(0, 1), **options())) == []


def test_group_by_label_has_two_rows_of_two_labels() -> None:
    dataset = pairs(100, 50)
    sampler = ours.GroupByLabelBatchSampler(dataset, **options())
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        labels = [dataset[row]["label"] for row in batch]
        assert len(set(labels)) >= 2 and min(labels.count(label) for label in labels) >= 2


@pytest.mark.parametrize("size", [2, 5])
def test_group_by_label_wants_an_even_batch(size: int) -> None:
    with pytest.raises(InputError, match="batch_size: grouping by label needs an even number"):
        ours.GroupByLabelBatchSampler(pairs(20, 9), **options(batch_size=size))


def test_group_by_label_wants_labels() -> None:
    with pytest.raises(DatasetError, match="needs a column named one of"):
        ours.GroupByLabelBatchSampler(pairs(20, 9), **options(valid_label_columns=["scores"]))
    single = Dataset.from_dict({"text": ["a"] * 6, "label": [0] * 6})
    with pytest.raises(DatasetError, match="at least 2 distinct labels"):
        ours.GroupByLabelBatchSampler(single, **options())


def test_several_datasets_want_a_sampler_each() -> None:
    with pytest.raises(InputError, match="batch_samplers: expected one for each of 2 datasets, got 1"):
        ours.RoundRobinBatchSampler(ConcatDataset([pairs(8, 8), pairs(8, 8)]), [DEFAULT(pairs(8, 8), **options())])


def DEFAULT(dataset: Dataset, **kwargs: object) -> ours.DefaultBatchSampler:
    return ours.DefaultBatchSampler(RandomSampler(dataset, generator=kwargs["generator"]), **kwargs)


def test_round_robin_takes_turns_and_proportional_takes_all() -> None:
    datasets = [pairs(24, 99), pairs(40, 99, seed=1)]

    def make(kind: type) -> list[list[int]]:
        shared = options()
        return list(kind(ConcatDataset(datasets), [DEFAULT(d, **shared) for d in datasets], shared["generator"], 7))

    turns = make(ours.RoundRobinBatchSampler)
    assert [batch[0] >= 24 for batch in turns] == [False, True] * 3
    every = make(ours.ProportionalBatchSampler)
    assert sorted(row for batch in every for row in batch) == list(range(64))
    assert all(len({row >= 24 for row in batch}) == 1 for batch in every)


def test_weights_and_temperature_set_the_shares_of_datasets() -> None:
    datasets = [pairs(800, 9999), pairs(80, 9999, seed=1)]

    def share(**given: object) -> float:
        shared = options()
        samplers = [DEFAULT(d, **shared) for d in datasets]
        sampler = ours.WeightedBatchSampler(ConcatDataset(datasets), samplers, shared["generator"], 7, **given)
        first, again, later = epochs(sampler, 1)[0], epochs(sampler, 1)[0], epochs(sampler, 2)[1]
        assert len(first) == len(sampler) == 110 and first == again and first != later
        assert all(len({row >= 800 for row in batch}) == 1 for batch in first)
        small = [tuple(batch) for batch in first if batch[0] >= 800]
        assert len({*small}) == len(small), "a dataset that begins again is shuffled anew"
        return len(small) / 110

    assert share() < 0.16
    assert 0.16 < share(temperature=3) < 0.42
    assert 0.4 < share(temperature=1e9) < 0.6
    assert share(weights=[1, 9]) > 0.8


@pytest.mark.parametrize(
    ("given", "message"),
    [({"weights": [1]}, "weights: expected a positive number for each of 2"), ({"temperature": 0}, "temperature: ")],
)
def test_shares_that_cannot_be(given: dict[str, object], message: str) -> None:
    datasets, shared = [pairs(8, 8), pairs(8, 8)], options()
    with pytest.raises(InputError, match=message):
        ours.WeightedBatchSampler(ConcatDataset(datasets), [DEFAULT(d, **shared) for d in datasets], **given)


def test_a_users_own_order_of_datasets() -> None:
    class LastFirst(ours.MultiDatasetDefaultBatchSampler):
        def __iter__(self):
            starts = self._start()
            for start, sampler in reversed([*zip(starts[:-1], self.batch_samplers, strict=True)]):
                yield from ([start + row for row in batch] for batch in sampler)

        def __len__(self) -> int:
            return sum(len(sampler) for sampler in self.batch_samplers)

    datasets, shared = [pairs(16, 99), pairs(24, 99, seed=1)], options()
    sampler = LastFirst(ConcatDataset(datasets), [DEFAULT(d, **shared) for d in datasets], shared["generator"], 7)
    first = list(sampler)
    assert [batch[0] >= 16 for batch in first] == [True] * 3 + [False] * 2
    assert list(sampler) == first, "the seed of the epoch"
    sampler.set_epoch(1)
    assert all(one.epoch == 1 for one in sampler.batch_samplers) and list(sampler) != first


@pytest.mark.parity
class TestSameBatchesAsSentenceTransformers:
    theirs = staticmethod(lambda: importlib.import_module("sentence_transformers.base.sampler"))

    @pytest.mark.parametrize("drop_last", [False, True])
    @pytest.mark.parametrize("kind", ["NoDuplicatesBatchSampler", "GroupByLabelBatchSampler", "DefaultBatchSampler"])
    @pytest.mark.parametrize("distinct", [26, 60, 1000])
    def test_one_dataset(self, kind: str, drop_last: bool, distinct: int) -> None:
        dataset = pairs(101, distinct)
        found = []
        for module in (ours, self.theirs()):
            settings = options(drop_last=drop_last)
            source = RandomSampler(dataset, generator=settings["generator"]) if "Default" in kind else dataset
            sampler = getattr(module, kind)(source, **settings)
            found.append((epochs(sampler), len(sampler)))
        assert found[0] == found[1]

    def test_lists_numbers_and_missing_values_compare_alike(self) -> None:
        values = {
            "a": [1, 2, 3, 1, 2, 9, 8, 7] * 4,
            "b": [["x", "y"], ["z"], None, ["1"], ["x", "y"], None, [], ["q"]] * 4,
        }
        dataset = Dataset.from_dict(values)
        found = [epochs(m.NoDuplicatesBatchSampler(dataset, **options(batch_size=4))) for m in (ours, self.theirs())]
        assert found[0] == found[1]

    @pytest.mark.parametrize("kind", ["RoundRobinBatchSampler", "ProportionalBatchSampler"])
    @pytest.mark.parametrize("inner", ["NoDuplicatesBatchSampler", "DefaultBatchSampler", "GroupByLabelBatchSampler"])
    def test_several_datasets(self, kind: str, inner: str) -> None:
        datasets = [pairs(50, 30), pairs(90, 60, seed=1), pairs(30, 400, seed=2)]
        found = []
        for module in (ours, self.theirs()):
            settings = options()
            generator = settings["generator"]
            sources = [RandomSampler(d, generator=generator) if "Default" in inner else d for d in datasets]
            children = [getattr(module, inner)(source, **settings) for source in sources]
            sampler = getattr(module, kind)(ConcatDataset(datasets), children, generator, 7)
            found.append((epochs(sampler), len(sampler)))
        assert found[0] == found[1]

    @pytest.mark.parametrize("name", ["BatchSamplers", "MultiDatasetBatchSamplers"])
    def test_names(self, name: str) -> None:
        values = [[(m.name, m.value) for m in getattr(module, name)] for module in (ours, self.theirs())]
        assert values[0] == values[1]
