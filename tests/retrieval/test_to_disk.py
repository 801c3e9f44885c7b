"""A corpus in a file: the same vectors, and a stopped run goes on."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnitune import SentenceTransformer
from omnitune.errors import InputError, ResourceError
from omnitune.retrieval.ordered import OrderedRows
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


def counted(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is encoded from now on."""
    seen: list[str] = []
    for verb in ("encode_query", "encode_document"):
        encode = getattr(model, verb)

        def counting(inputs: Any, *args: Any, encode: Any = encode, **options: Any) -> Any:
            seen.extend(inputs)
            return encode(inputs, *args, **options)

        monkeypatch.setattr(model, verb, counting)
    return seen


def test_a_killed_run_goes_on(
    model: SentenceTransformer, tiny_bert: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    encoded = counted(model, monkeypatch)
    rows = encode_to_disk(model, texts, tmp_path / "v.npy", rows_at_once=6)
    assert encoded == texts[12:]
    assert np.allclose(rows, model.encode_document(texts), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


class Stop(Exception):
    pass


class Stopping(Texts):
    """Stops at a row."""

    def __init__(self, items: list[str], row: int) -> None:
        super().__init__(items)
        self.row = row

    def __getitem__(self, index: Any) -> Any:
        if index == self.row:
            raise Stop
        return super().__getitem__(index)


def stopped(model: SentenceTransformer, texts: list[str], path: Path, row: int, **options: Any) -> None:
    with pytest.raises(Stop):
        encode_to_disk(model, Stopping(texts, row), path, rows_at_once=4, **options)


def test_rows_that_changed_in_the_middle_are_encoded_again(
    model: SentenceTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(model, texts, tmp_path / "v.npy", 20)
    changed = [*texts[:5], "changed", *texts[6:9], "another", *texts[10:]]
    encoded = counted(model, monkeypatch)
    rows = encode_to_disk(model, changed, tmp_path / "v.npy", rows_at_once=4)
    assert sorted(encoded) == sorted(["changed", "another", *texts[20:]])
    assert np.allclose(rows, model.encode_document(changed), atol=1e-6)


def test_rows_of_another_run_are_not_taken(
    model: SentenceTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notes 20 rows, B (other options) goes over some of them and dies, A goes on."""
    path = tmp_path / "v.npy"
    for other in ({"normalize_embeddings": True}, {"role": "query"}, {"truncate_dim": 8}):
        stopped(model, texts, path, 20)
        stopped(model, texts, path, 9, **other)
        # B is killed after its rows were written and before their keys were.
        with monkeypatch.context() as killed:
            put = OrderedRows._put

            def dies(file: Path, place: int, values: Any, put: Any = put) -> None:
                if file.suffix == ".keys" and values.any():
                    raise Stop
                put(file, place, values)

            killed.setattr(OrderedRows, "_put", staticmethod(dies))
            with pytest.raises(Stop):
                encode_to_disk(model, texts, path, rows_at_once=4, **other)
        rows = encode_to_disk(model, texts, path, rows_at_once=4)
        assert np.allclose(rows, model.encode_document(texts), atol=1e-6)
        path.unlink()


@pytest.mark.parametrize("damage", ["keys cut", "rows cut", "no rows", "no keys", "rubbish"])
def test_torn_files_are_made_again(model: SentenceTransformer, texts: list[str], tmp_path: Path, damage: str) -> None:
    path, partial = tmp_path / "v.npy", tmp_path / "v.npy.partial"
    stopped(model, texts, path, 20)
    rows, keys = partial / "rows.npy", partial / "rows.keys"
    if damage == "keys cut":
        keys.write_bytes(keys.read_bytes()[:100])
    elif damage == "rows cut":
        rows.write_bytes(rows.read_bytes()[:-8])
    elif damage == "rubbish":
        rows.write_bytes(b"{}")
    else:
        (rows if damage == "no rows" else keys).unlink()
    assert np.allclose(encode_to_disk(model, texts, path, rows_at_once=4), model.encode_document(texts), atol=1e-6)


def test_a_full_disk_is_a_sentence(
    model: SentenceTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(ResourceError, match=r"rows.npy: the disk is full \(\d+ MB free\)"):
            encode_to_disk(model, texts, tmp_path / "v.npy", rows_at_once=4)
    assert len(encode_to_disk(model, texts, tmp_path / "v.npy", rows_at_once=4)) == len(texts)


def test_two_runs_to_one_path(model: SentenceTransformer, texts: list[str], tmp_path: Path) -> None:
    class Nosy(Texts):
        def __getitem__(self, index: Any) -> Any:
            if index == 5:
                with pytest.raises(ResourceError, match=r"v\.npy\.partial: another process is encoding here"):
                    encode_to_disk(model, texts, tmp_path / "v.npy")
            return super().__getitem__(index)

    assert len(encode_to_disk(model, Nosy(texts), tmp_path / "v.npy", rows_at_once=4)) == len(texts)


def test_embeddings_that_are_not_finite_are_not_written(
    model: SentenceTransformer, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = model.encode_document

    def broken(inputs: Any, **options: Any) -> Any:
        made = encode(inputs, **options)
        made[[row for row, text in enumerate(inputs) if text == texts[10]]] = np.nan
        return made

    monkeypatch.setattr(model, "encode_document", broken)
    with pytest.raises(InputError, match="row 10: expected finite embeddings, got NaN or infinity"):
        encode_to_disk(model, texts, tmp_path / "v.npy", rows_at_once=4)
    assert not (tmp_path / "v.npy").exists()


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
