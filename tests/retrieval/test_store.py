"""The corpus store: rows by content, for several processes, whatever happened to its files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnitune import SentenceTransformer
from omnitune.errors import InputError, ShapeError
from omnitune.retrieval.arrays import read_arrays, write_arrays
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.store import Store, encode_corpus
from omnitune.types import Embeddings


def keys_of(items: list[int]) -> Any:
    return np.array([f"{item:032}".encode() for item in items], dtype="S32")


def dense(items: list[int]) -> Any:
    return np.array([[item, 1.0] for item in items], dtype=np.float32)


def ragged(items: list[int]) -> Any:
    return [np.full((item % 4, 3), item, dtype=np.float32) for item in items]


def sparse(items: list[int]) -> Any:
    rows = torch.zeros(len(items), 9)
    for row, item in enumerate(items):
        rows[row, : item % 5] = item
    return rows.to_sparse()


def as_dense(rows: Packed) -> Any:
    if rows.indices is None:
        return [rows[row].tolist() for row in range(len(rows))]
    made = np.zeros((len(rows), rows.dim))
    for row in range(len(rows)):
        here = slice(rows.offsets[row], rows.offsets[row + 1])  # type: ignore[index]
        made[row, rows.indices[here]] = rows.values[here]
    return made.tolist()


@pytest.mark.parametrize("encode", [dense, ragged, sparse])
def test_every_content_is_encoded_once_in_any_layout(tmp_path: Path, encode: Any) -> None:
    seen: list[int] = []

    def counting(items: list[int]) -> Any:
        seen.extend(items)
        return encode(items)

    first, more = [5, 3, 5, 8, 1, 3], [9, 3, 2, 2, 5, 7]
    for items in (first, more, [*more, *first]):
        rows = Store(tmp_path).rows(items, keys_of(items), counting, chunk_size=3)
        assert as_dense(rows) == as_dense(Packed.of(encode(items)))
    assert sorted(seen) == [1, 2, 3, 5, 7, 8, 9]
    assert len(Store(tmp_path).rows([], keys_of([]), counting)) == 0


def test_half_precision_and_memory(tmp_path: Path) -> None:
    rows = Store(tmp_path, dtype="float16").rows([7, 9], keys_of([7, 9]), ragged)
    assert rows.values.dtype == np.float16 and rows[0].shape == (3, 3)
    held = Store(None)
    held.rows([1, 2], keys_of([1, 2]), dense)
    assert held.rows([2], keys_of([2]), lambda _: 1 / 0).values.tolist() == [[2, 1]]


def test_what_was_encoded_before_a_stop_is_kept(tmp_path: Path) -> None:
    def stops(items: list[int]) -> Any:
        if 12 in items:
            raise KeyboardInterrupt
        return dense(items)

    items = list(range(20))
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).rows(items, keys_of(items), stops, chunk_size=5)
    again: list[int] = []

    def rest(some: list[int]) -> Any:
        again.extend(some)
        return dense(some)

    assert Store(tmp_path).rows(items, keys_of(items), rest)[15].tolist() == [15, 1]
    assert again == list(range(10, 20))


@pytest.mark.parametrize("cut", [0, 5, 60, -1])
def test_a_torn_segment_is_absent(tmp_path: Path, cut: int) -> None:
    Store(tmp_path).rows([1, 2], keys_of([1, 2]), dense)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    (tmp_path / "other.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0[1,2]")
    assert Store(tmp_path).rows([2, 1], keys_of([2, 1]), dense).values.tolist() == [[2, 1], [1, 1]]


WRITER = """
import sys, time
import numpy as np
from pathlib import Path
from omnitune.retrieval.store import Store
def encode(items):
    time.sleep(0.01)
    return np.array([[item, 2 * item, -item] for item in items], dtype=np.float32)
order = np.random.default_rng(int(sys.argv[2])).permutation(400).tolist()
keys = np.array([f"{item:032}".encode() for item in order], dtype="S32")
print("ready", flush=True)
sys.stdin.readline()
rows = Store(Path(sys.argv[1])).rows(order, keys, encode, chunk_size=20)
print(sum(rows[row].tolist() != [item, 2 * item, -item] for row, item in enumerate(order)))
"""


@pytest.mark.slow
def test_processes_share_a_store_without_mixing_rows(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, str(seed)], **pipes) for seed in range(3)]
    for process in running:
        assert process.stdout.readline() == "ready\n"  # type: ignore[union-attr]
    for process in running:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == ["0", "0", "0"]
    assert len(list(tmp_path.iterdir())) > 20  # they did overlap
    assert Store(tmp_path).rows([17], keys_of([17]), lambda _: 1 / 0).values.tolist() == [[17, 34, -17]]


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    rows = Store(tmp_path / "file" / "store").rows([3, 4], keys_of([3, 4]), dense, chunk_size=1)
    assert rows.values.tolist() == [[3, 1], [4, 1]]
    assert "embeddings are not kept" in caplog.text


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    def broken(items: list[int]) -> Any:
        return [np.full((2, 2), np.inf if item == 7 else 1.0) for item in items]

    with pytest.raises(InputError, match="row 3: expected finite embeddings, got NaN or infinity"):
        Store(tmp_path).rows([1, 2, 1, 7], keys_of([1, 2, 1, 7]), broken)
    assert not list(tmp_path.iterdir())


def test_every_layout_of_embeddings_is_packed() -> None:
    rows = [torch.ones(2, 3), torch.zeros(1, 3)]
    packed = Packed.of(Embeddings.packed(rows))
    assert as_dense(packed) == as_dense(Packed.of(Embeddings.packed(rows).pad())) == [row.tolist() for row in rows]
    matrix = torch.tensor([[0.0, 2, 0], [0, 0, 0], [1, 0, 3]])
    assert as_dense(Packed.of(Embeddings.csr(matrix))) == matrix.tolist()
    assert as_dense(Packed.of(Embeddings(matrix), "float16")) == matrix.tolist()


def test_messages() -> None:
    with pytest.raises(InputError, match="encode: expected one embedding for each of 2 items, got 1"):
        Store(None).rows([1, 2], keys_of([1, 2]), lambda items: dense(items[:1]))
    with pytest.raises(ShapeError, match=r"rows: expected embeddings \(rows, dim\), .* got shape \(2, 3, 4\)"):
        Packed.of(np.zeros((2, 3, 4)))


def test_arrays_are_what_safetensors_reads(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    arrays = {"bytes": np.arange(3, dtype=np.uint8), "wide": np.eye(3), "none": np.zeros((0, 4), np.float16)}
    write_arrays(tmp_path / "a", arrays, {"made": "here"})
    found = read_arrays(tmp_path / "a")
    assert found is not None and found[1] == {"made": "here"}
    for name, array in load_file(tmp_path / "a").items():
        np.testing.assert_array_equal(array, arrays[name])
        np.testing.assert_array_equal(found[0][name], arrays[name])
    assert read_arrays(tmp_path / "missing") is None


def test_a_corpus_is_encoded_once_for_each_role_prompt_and_weights(
    tiny_bert: Path, texts: list[str], tmp_path: Path
) -> None:
    model = SentenceTransformer(str(tiny_bert), device="cpu", prompts={"query": "find ", "document": "page "})
    twice = [*texts, *texts[:3]]
    rows = encode_corpus(model, twice, tmp_path, label="Encoding", batch_size=4)
    np.testing.assert_allclose(rows.values, model.encode_document(twice), atol=1e-6)
    folders = len(list(tmp_path.iterdir()))
    encode_corpus(model, texts, tmp_path, batch_size=9)
    assert len(list(tmp_path.iterdir())) == folders == 1
    asked = encode_corpus(model, texts, tmp_path, queries=True)
    np.testing.assert_allclose(asked.values, model.encode_query(texts), atol=1e-6)
    encode_corpus(model, texts, tmp_path, normalize_embeddings=True)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    encode_corpus(model, texts, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
