"""Rows to a batch of raw columns."""

import pytest
import torch

from omnitune.data.collator import Collator
from omnitune.data.columns import Row
from omnitune.errors import DatasetError, InputError


def rows(**columns: list[object]) -> list[Row]:
    count = len(next(iter(columns.values())))
    return [Row({k: v[i] for k, v in columns.items()}, number=10 + i, dataset="faq") for i in range(count)]


def test_columns_keep_order_items_and_places() -> None:
    image = {"bytes": b"never decoded", "path": None}
    batch = Collator()(rows(query=["a", "b"], page=[image, image], score=[0.5, 1]))
    assert [c.name for c in batch["columns"]] == ["query", "page"]
    assert batch["columns"][1].items == [image, image] and batch["columns"][1].items[0] is image
    assert batch["dataset"] == "faq"
    assert torch.equal(batch["labels"], torch.tensor([0.5, 1.0]))
    assert batch["columns"][1].place(1) == "dataset 'faq', row 11, column 'page'"


def test_plain_dicts_have_no_place() -> None:
    batch = Collator()([{"a": "x"}, {"a": "y"}])
    assert batch["columns"][0].rows is None and batch["labels"] is None and batch["dataset"] is None


def test_list_labels() -> None:
    batch = Collator()(rows(a=["x", "y"], labels=[[1, 2], [3, 4]]))
    assert batch["labels"].tolist() == [[1, 2], [3, 4]]
    stacked = Collator()(rows(a=["x", "y"], labels=[torch.ones(3), torch.zeros(3)]))
    assert stacked["labels"].shape == (2, 3)


def test_labels_of_lists_of_different_lengths() -> None:
    batch = Collator()(rows(a=["x", "y"], labels=[[1.0, 2.0], [3.0]]))
    assert [row.tolist() for row in batch["labels"]] == [[1.0, 2.0], [3.0]]


def test_labels_that_are_no_numbers() -> None:
    with pytest.raises(
        DatasetError, match=r"dataset 'faq', row 10, column 'label': expected a number or a list of numbers, got 'yes'"
    ):
        Collator()(rows(a=["x", "y"], label=["yes", "no"]))


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (None, [None, None]),
        ("all: ", ["all: ", "all: "]),
        ({"query": "q: "}, ["q: ", None]),
        ({"faq": "f: "}, ["f: ", "f: "]),
        ({"faq": {"answer": "a: "}}, [None, "a: "]),
        ({"other": {"answer": "a: "}}, [None, None]),
        ({"other": "o: "}, [None, None]),
    ],
)
def test_prompts(prompts: object, expected: list[str | None]) -> None:
    batch = Collator(prompts=prompts)(rows(query=["x"], answer=["y"]))
    assert [c.prompt for c in batch["columns"]] == expected


def test_routes() -> None:
    batch = Collator(router_mapping={"faq": {"query": "query", "answer": "document"}})(rows(query=["x"], answer=["y"]))
    assert [c.role for c in batch["columns"]] == ["query", "document"]
    batch = Collator(router_mapping={"answer": "document"})(rows(query=["x"], answer=["y"]))
    assert [c.role for c in batch["columns"]] == [None, "document"]


@pytest.mark.parametrize("argument", ["prompts", "router_mapping"])
def test_mappings_by_dataset_need_named_datasets(argument: str) -> None:
    with pytest.raises(InputError, match=f"{argument}: expected a mapping by column for a single dataset"):
        Collator(**{argument: {"faq": {"a": "query"}}})([{"a": "x"}])


def test_odd_column_order_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    collator = Collator()
    for _ in range(2):
        collator(rows(positive=["x"], anchor=["y"], label=[1]))
    assert caplog.text.count("select_columns(['anchor', 'positive'])") == 1
    assert "column 'anchor' is number 2 of ['positive', 'anchor'], and is customarily number 1" in caplog.text


def test_customary_orders_and_other_names_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Collator()(rows(label=[1], anchor=["y"], positive=["x"]))
    Collator()(rows(query=["y"], page=["x"]))
    assert not caplog.text


def test_id_columns_are_said(caplog: pytest.LogCaptureFixture) -> None:
    Collator()(rows(query_id=["y"], text=["x"]))
    assert "['query_id'] look like ids" in caplog.text
