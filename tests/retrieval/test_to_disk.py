"""A corpus in a file: the same vectors, and a stopped run goes on."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnitune import SentenceTransformer
from omnitune.errors import InputError
from omnitune.retrieval.to_disk import encode_to_disk


class Texts(list[str]):
    """Remembers which rows were read."""

    def __init__(self, items: list[str]) -> None:
        super().__init__(items)
        self.read: list[int] = []

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        return super().__getitem__(index)


@pytest.fixture
def model(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu", prompts={"query": "find ", "document": "page "})


@pytest.mark.parametrize("role", ["document", "query"])
def test_the_file_holds_what_encode_returns(
    model: SentenceTransformer, texts: list[str], tmp_path: Path, role: Any
) -> None:
    rows = encode_to_disk(model, texts, tmp_path / "a" / "v.npy", role=role, rows_at_once=7, normalize_embeddings=True)
    expected = getattr(model, f"encode_{role}")(texts, normalize_embeddings=True)
    assert isinstance(rows, np.memmap) and not rows.flags.writeable
    assert np.allclose(rows, expected, atol=1e-6) and rows.dtype == np.float32
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["v.npy"]


def test_a_killed_run_goes_on(model: SentenceTransformer, tiny_bert: Path, texts: list[str], tmp_path: Path) -> None:
    code = f"""
import os, sys
from omnitune import SentenceTransformer
from omnitune.retrieval.to_disk import encode_to_disk
class Dying(list):
    def __getitem__(self, i):
        if i == 15:
            os._exit(9)
        return super().__getitem__(i)
model = SentenceTransformer({str(tiny_bert)!r}, device="cpu", prompts={{"query": "find ", "document": "page "}})
encode_to_disk(model, Dying({texts!r}), {str(tmp_path / "v.npy")!r}, rows_at_once=6)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 9
    assert not (tmp_path / "v.npy").exists()
    items = Texts(texts)
    rows = encode_to_disk(model, items, tmp_path / "v.npy", rows_at_once=6)
    assert sorted(set(items.read)) == [0, *range(12, len(texts))]  # row 0 for the key
    assert np.allclose(rows, model.encode_document(texts), atol=1e-6)


def test_other_arguments_begin_anew(model: SentenceTransformer, texts: list[str], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Stopping(Texts):
        def __getitem__(self, index: Any) -> Any:
            if index == 9:
                raise Stop
            return super().__getitem__(index)

    for role in ("document", "query"):
        with pytest.raises(Stop):
            encode_to_disk(model, Stopping(texts), tmp_path / "v.npy", role=role, rows_at_once=4)  # type: ignore[arg-type]
    items = Texts(texts)
    rows = encode_to_disk(model, items, tmp_path / "v.npy", rows_at_once=4)
    assert set(items.read) == set(range(len(texts))) and np.allclose(rows, model.encode_document(texts), atol=1e-6)


def test_a_bad_item_is_named_by_its_row_in_the_corpus(
    model: SentenceTransformer, texts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="row 9, column 'inputs': "):
        encode_to_disk(model, [*texts[:9], 5, *texts[9:]], tmp_path / "v.npy", rows_at_once=4)
    with pytest.raises(InputError, match="row 24, column 'inputs': "):
        encode_to_disk(model, [*texts, 5], tmp_path / "new.npy", rows_at_once=4)
    assert not (tmp_path / "new.npy.partial").exists()  # found out before the other rows are encoded


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ([], {}, "inputs: expected at least one item, got none"),
        (["a"], {"rows_at_once": 0}, "rows_at_once: expected a positive number, got 0"),
        (["a"], {"output_value": None}, r"options: expected options that give one array of embeddings, got \['output"),
        (["a"], {"precision": "int8"}, "precision: expected float32, binary or ubinary, got 'int8'"),
    ],
)
def test_messages(
    model: SentenceTransformer, tmp_path: Path, inputs: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        encode_to_disk(model, inputs, tmp_path / "v.npy", **options)


def test_a_file_is_not_overwritten(model: SentenceTransformer, tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"mine")
    with pytest.raises(InputError, match="path: expected a file that is not there yet"):
        encode_to_disk(model, ["a"], tmp_path / "v.npy")
