"""Bad items are found before training, once for each content, with their places."""

import threading

import pytest
from datasets import Dataset

from omnitune.data.check import BadItem, find_bad_items, refuse
from omnitune.data.columns import Rows, content_codes
from omnitune.errors import DatasetError, MediaError


@pytest.fixture
def dataset() -> Dataset:
    pages = [{"bytes": b"good"}, {"bytes": b"bad"}, {"bytes": b"good"}, {"bytes": b"bad"}, {"bytes": None}]
    return Dataset.from_dict({"query": ["a", "b", None, "d", "e"], "page": pages})


class Loader:
    def __init__(self) -> None:
        self.seen: list[object] = []
        self._lock = threading.Lock()

    def __call__(self, item: object) -> None:
        with self._lock:
            self.seen.append(item)
        if item == {"bytes": b"bad"}:
            raise MediaError("not an image")


def find(dataset: Dataset, load: object, name: str | None = "manuals") -> list[BadItem]:
    rows = Rows(dataset, name)
    codes = lambda: content_codes(rows, ["query", "page"], lambda item: item["bytes"])  # noqa: E731
    return find_bad_items(rows, ["query", "page"], load, codes, show_progress=False)


def test_every_bad_cell_is_found_and_every_content_loaded_once(dataset: Dataset) -> None:
    load = Loader()
    assert [str(bad) for bad in find(dataset, load)] == [
        "dataset 'manuals', row 1, column 'page': not an image",
        "dataset 'manuals', row 2, column 'query': missing (None)",
        "dataset 'manuals', row 3, column 'page': not an image",
        "dataset 'manuals', row 4, column 'page': missing (None)",
    ]
    assert [item for item in load.seen if isinstance(item, dict)].count({"bytes": b"bad"}) == 1
    assert [item for item in load.seen if isinstance(item, dict)].count({"bytes": b"good"}) == 1


def test_without_a_loader_only_missing_values_are_looked_for() -> None:
    texts = Dataset.from_dict({"query": ["a", None], "page": ["x", "y"]})
    rows = Rows(texts)
    found = find_bad_items(rows, ["query", "page"], None, lambda: pytest.fail("numbered"))
    assert [str(bad) for bad in found] == ["row 1, column 'query': missing (None)"]


def test_texts_without_gaps_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(Dataset.from_dict({"query": ["a", "b"], "page": ["x", "y"]}))
    monkeypatch.setattr(Rows, "__getitems__", lambda *a: pytest.fail("a row was read"))
    assert find_bad_items(rows, ["query", "page"], None, lambda: pytest.fail("numbered")) == []


def test_row_numbers_are_the_users(dataset: Dataset) -> None:
    rows = Rows(dataset, keep=[1, 4])
    codes = lambda: content_codes(rows, ["page"], lambda item: item["bytes"])  # noqa: E731
    assert [bad.row for bad in find_bad_items(rows, ["page"], Loader(), codes, show_progress=False)] == [1, 4]


def test_other_errors_are_not_hidden(dataset: Dataset) -> None:
    def broken(item: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        find(dataset, broken)


def test_refusing_lists_places_and_the_way_out() -> None:
    refuse([])
    many = [BadItem(row=i, column="page", reason="truncated") for i in range(12)]
    with pytest.raises(DatasetError) as error:
        refuse(many)
    assert "12 item(s) cannot be used" in str(error.value)
    assert "  row 9, column 'page': truncated\n  and 2 more\n" in str(error.value)
    assert 'on_bad_item="skip"' in str(error.value)
