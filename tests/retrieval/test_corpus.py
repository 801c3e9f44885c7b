"""Every kind of source gives its items in order, in this process and in another."""

import bz2
import gzip
import json
import lzma
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from fixtures.tiny_pdfs import write_folder
from omnitune import io
from omnitune.documents.read.pages import Rendering
from omnitune.errors import DatasetError
from omnitune.retrieval.corpus import open_corpus

ROWS = {"id": [0, 1, 2], "text": ["one", "two", "three"]}


def write(folder: Path, kind: str) -> Path:
    table = datasets.Dataset.from_dict(ROWS)
    path = folder / f"rows.{kind}"
    if kind == "saved":
        datasets.DatasetDict({"train": table}).save_to_disk(path)
    elif kind in ("json", "jsonl"):
        table.to_json(path)
    elif kind == "txt":
        path.write_text("one\ntwo\nthree\n")
    else:
        getattr(table, f"to_{kind}")(path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "txt", "saved"])
def test_a_column_of_a_table(tmp_path: Path, kind: str) -> None:
    corpus = open_corpus(write(tmp_path, kind), tmp_path / "store", column=None if kind == "txt" else "text")
    assert list(corpus.items) == ["one", "two", "three"] and corpus.rows is None
    again = pickle.loads(pickle.dumps(corpus.reopen))()
    assert [again[row] for row in range(len(again))] == ["one", "two", "three"]
    assert not (tmp_path / "store").exists()


def test_stored_images_stay_encoded(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    features = datasets.Features({"page": datasets.Image()})
    datasets.Dataset.from_dict({"page": [str(tmp_path / "red.png")]}, features=features).save_to_disk(tmp_path / "d")
    item = open_corpus(tmp_path / "d", tmp_path / "store").items[0]
    assert item["bytes"] == (tmp_path / "red.png").read_bytes()


def test_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "deep/c.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name)
    corpus = open_corpus(tmp_path / "images", tmp_path / "store")
    names = [row["document"] for row in io.read_jsonl(corpus.rows or "")]
    assert names == ["a.png", "b.png", "deep/c.jpg"]
    assert [Path(item["path"]).name for item in corpus.items] == ["a.png", "b.png", "c.jpg"]


def test_the_pages_of_documents(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "manuals")
    corpus = open_corpus(folder, tmp_path / "store", rendering=Rendering(width=64))
    rows = list(io.read_jsonl(corpus.rows or ""))
    assert len(corpus.items) == len(rows) == 20 and rows[0]["page"] == 1
    with Image.open(corpus.items[0]["path"]) as page:
        assert page.width == 64
    assert pickle.loads(pickle.dumps(corpus.reopen))() == corpus.items


def test_a_prepared_dataset(tmp_path: Path) -> None:
    from omnitune.documents import prepare

    made = prepare(write_folder(tmp_path / "manuals"), tmp_path / "out", width=64, workers=1, test=["kitchen.pdf"])
    corpus = open_corpus(tmp_path / "out", tmp_path / "store")
    assert corpus.items == made.pages and Path(corpus.items[0]["path"]).is_absolute()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("csv", {}, r"column: expected one of \['id', 'text'\] of .*rows.csv, got none"),
        ("csv", {"column": "txt"}, "column: expected one of .* got 'txt'"),
        ("csv", {"column": "text", "split": "train"}, "split: expected none for the file .* got 'train'"),
        ("saved", {"column": "text", "split": "test"}, r"split: expected one of \['train'\] of .* got 'test'"),
    ],
)
def test_what_a_table_does_not_have_is_named(tmp_path: Path, kind: str, options: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_corpus(write(tmp_path, kind), tmp_path / "store", **options)


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="source: expected a folder .* got '.*/none.txt', which is not there"):
        open_corpus(tmp_path / "none.txt", tmp_path)
    (tmp_path / "a.odt").write_text("")
    with pytest.raises(DatasetError, match=r"or a file \(.jsonl, .* got '.*/a.odt'$"):
        open_corpus(tmp_path / "a.odt", tmp_path)
    (tmp_path / "broken.jsonl").write_text('{"text": "one"}\n{"text": ')
    with pytest.raises(DatasetError, match=r"source: expected a table, got .*broken.jsonl, which cannot be read: "):
        open_corpus(tmp_path / "broken.jsonl", tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DatasetError, match="source: expected at least one item, got none in "):
        open_corpus(tmp_path / "empty.jsonl", tmp_path, column="text")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.txt"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_an_archive_is_not_unpacked(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(pack(b"text\n" + bytes(1 << 20)))
    with pytest.raises(DatasetError, match=r"source: expected a table, got .*, which is an archive; unpack it first"):
        open_corpus(tmp_path / name, tmp_path / "store")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("part", ["[", '{"a":', "[[],", "[\n"])
def test_values_that_would_overrun_the_stack_are_refused(tmp_path: Path, name: str, part: str) -> None:
    if part.endswith("\n") and name.endswith("l"):
        pytest.skip("a value is a line")
    (tmp_path / name).write_text('{"text": "a"}\n{"text": ' + part * 100_000)
    with pytest.raises(DatasetError, match=r"expected values nested at most 500 deep, got more in line \d+ of"):
        open_corpus(tmp_path / name, tmp_path / "store")


def test_brackets_in_texts_are_no_levels(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": '[{"' * 5_000}) + "\n")
    assert list(open_corpus(tmp_path / "rows.jsonl", tmp_path / "store").items) == ['[{"' * 5_000]
