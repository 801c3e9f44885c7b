"""Rows that a recipe names, and the corpus that their evaluation asks."""

import pytest
from datasets import Dataset, DatasetDict

from omnitune.errors import DatasetError
from omnitune.finetune.hub_dataset import evaluator_of, load_rows


@pytest.fixture
def stored(tmp_path):
    rows = Dataset.from_dict(
        {"id": [1, 2, 3], "query": ["a", "b", "c"], "page": ["A", "B", "C"], "negative": ["x", None, "z"]}
    )
    DatasetDict({"train": rows, "eval": rows.select([0, 1])}).save_to_disk(str(tmp_path / "rows"))
    return str(tmp_path / "rows")


def test_columns_are_taken_in_the_order_of_the_recipe(stored):
    rows = load_rows({"path": stored, "split": "train", "columns": ["query", "page"]})
    assert rows.column_names == ["query", "page"] and len(rows) == 3
    held_out = load_rows({"path": stored, "eval_split": "eval", "eval_columns": ["query", "negative"]}, evaluation=True)
    assert held_out.column_names == ["query", "negative"] and len(held_out) == 2


def test_columns_that_are_not_there(stored):
    with pytest.raises(DatasetError, match=r"dataset.columns: expected names among \['id', 'query'.*got \['pages'\]"):
        load_rows({"path": stored, "columns": ["query", "pages"]})
    with pytest.raises(DatasetError, match="dataset.eval_columns"):
        load_rows({"path": stored, "eval_columns": ["query", "pages"]}, evaluation=True)


def test_one_column_is_too_few(stored):
    with pytest.raises(DatasetError, match="rows of query and page at least, got 3 rows of"):
        load_rows({"path": stored, "columns": ["query"]})


def test_every_page_is_in_the_corpus_and_empty_cells_are_not(stored):
    evaluator = evaluator_of(load_rows({"path": stored, "columns": ["query", "page", "negative"]}), batch_size=4)
    assert {key: evaluator.corpus[key] for key in evaluator.corpus} == {
        (0, "page"): "A",
        (1, "page"): "B",
        (2, "page"): "C",
        (0, "negative"): "x",
        (2, "negative"): "z",
    }
    assert evaluator.queries == ["a", "b", "c"]
    assert evaluator.relevant_docs == {number: {(number, "page")} for number in range(3)}
