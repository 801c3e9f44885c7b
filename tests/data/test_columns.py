"""Rows: numbered, undecoded, and read without changing the user's dataset."""

import io
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from PIL import Image

from omnitune.data.columns import (
    ManyRows,
    Rows,
    StreamRows,
    check_names,
    content_codes,
    input_columns,
    label_column,
)
from omnitune.errors import DatasetError


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 4), shade).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pages() -> Dataset:
    images = [{"bytes": png(i % 3), "path": f"{i}.png"} for i in range(6)]
    features = datasets.Features({"query": datasets.Value("string"), "page": datasets.Image()})
    return Dataset.from_dict({"query": [f"q{i}" for i in range(6)], "page": images}, features=features)


def test_labels_and_inputs() -> None:
    assert label_column(["a", "score", "label"]) == "label"
    assert input_columns(["a", "score", "label"]) == ["a", "score"]
    assert label_column(["a", "b"]) is None
    assert input_columns(["b", "a"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "dataset_name"], "reserved .*got \\['dataset_name'\\]"),
        (None, "columns are unknown"),
        (["label"], "at least one column to encode"),
    ],
)
def test_names_that_cannot_be(names: list[str] | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_names(names, "train_dataset")


def test_images_stay_bytes_and_rows_are_numbered(pages: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *a, **k: pytest.fail("an image was decoded"))
    rows = Rows(pages, "manuals").__getitems__([4, 1])
    assert rows == [{"query": f"q{i}", "page": {"bytes": png(i % 3), "path": f"{i}.png"}} for i in (4, 1)]
    assert [(row.number, row.dataset) for row in rows] == [(4, "manuals"), (1, "manuals")]


def test_the_dataset_is_left_as_it_was(pages: Dataset) -> None:
    before = (pages.format, pages.features.copy(), pages.column_names, pages._fingerprint)
    list(Rows(pages).chunks())
    assert (pages.format, pages.features, pages.column_names, pages._fingerprint) == before
    assert isinstance(pages[0]["page"], Image.Image)


def test_kept_rows_keep_their_numbers(pages: Dataset) -> None:
    rows = Rows(pages, keep=[0, 3, 5])
    assert [(row.number, row["query"]) for row in rows.__getitems__([0, 1, 2])] == [(0, "q0"), (3, "q3"), (5, "q5")]
    assert len(rows) == 3


def test_shuffled_and_selected_datasets_read_the_right_rows(pages: Dataset) -> None:
    chosen = pages.select([5, 2])
    assert [row["query"] for row in Rows(chosen).__getitems__([0, 1])] == ["q5", "q2"]


def test_a_users_transform_is_used(pages: Dataset) -> None:
    def widths(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"text": [q.upper() for q in batch["query"]], "width": [image.width for image in batch["page"]]}

    rows = Rows(pages.with_transform(widths))
    assert rows.column_names == ["text", "width"]
    assert rows[2] == {"text": "Q2", "width": 6}
    assert rows[2].number == 2


def test_a_selected_format_limits_the_columns(pages: Dataset) -> None:
    assert Rows(pages.with_format("torch", columns=["query"]))[1] == {"query": "q1"}


def test_many_rows_are_datasets_end_to_end(pages: Dataset) -> None:
    many = ManyRows([Rows(pages, "a"), Rows(pages.select([3]), "b"), Rows(pages, "c")])
    assert len(many) == 13
    found = many.__getitems__([12, 6, 0, 7])
    assert [(row.dataset, row.number, row["query"]) for row in found] == [
        ("c", 5, "q5"),
        ("b", 0, "q3"),
        ("a", 0, "q0"),
        ("c", 0, "q0"),
    ]
    assert many[6]["query"] == "q3"


def test_a_stream_is_numbered_and_undecoded(pages: Dataset) -> None:
    stream: IterableDataset = pages.to_iterable_dataset()
    rows = list(StreamRows(stream))
    assert [row.number for row in rows] == list(range(6))
    assert rows[0]["page"]["bytes"] == png(0)


def test_codes_are_equal_where_contents_are(pages: Dataset) -> None:
    shared = pages.add_column("other", ["q0", "x", "q1", "q2", "y", "y"])
    codes = content_codes(Rows(shared), ["query", "page", "other"], lambda item: item["bytes"])
    assert codes.shape == (6, 3) and codes.dtype == np.int64
    assert codes[0, 0] == codes[0, 2] and codes[1, 0] == codes[2, 2] and codes[4, 2] == codes[5, 2]
    assert codes[0, 1] == codes[3, 1] != codes[1, 1]
    assert len(np.unique(codes)) == 6 + 3 + 2


def test_a_data_loader_reads_rows_in_batches(pages: Dataset) -> None:
    batches = list(torch.utils.data.DataLoader(Rows(pages), batch_size=4, collate_fn=list))
    assert [[row.number for row in batch] for batch in batches] == [[0, 1, 2, 3], [4, 5]]
