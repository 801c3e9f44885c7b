"""An inverted index over sparse rows; what all indexes of segments do is in `test_late_index.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnitune.errors import InputError, ShapeError
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.sparse_index import SparseIndex, sparse_rows
from omnitune.types import Embeddings

DIM = 300


def matrix(count: int, seed: int = 0, dim: int = DIM, shift: float = 0.0) -> Any:
    """Rows whose terms are as unequally common as words; number 5 is empty."""
    generator = np.random.default_rng(seed)
    common = generator.random((count, dim)) < 0.4 / np.sqrt(np.arange(1, dim + 1))
    weights = generator.gamma(2, 0.5, (count, dim)) - shift
    made = np.where(common, weights, 0).astype(np.float32)
    made[5:6] = 0
    return made


def entries(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"{row}", "page": row} for row in range(start, start + count)]


@pytest.mark.parametrize("shift", [0.0, 0.7], ids=["positive", "signed"])
def test_scores_and_order_are_those_of_the_dense_product(shift: float) -> None:
    rows, queries = matrix(500, shift=shift), matrix(20, seed=1, shift=shift)
    expected = (queries.astype(np.float64) @ rows.astype(np.float64).T).astype(np.float32)
    whole, cut = SparseIndex(), SparseIndex()
    whole.add(entries(500), torch.from_numpy(rows).to_sparse())
    for start in range(0, 500, 90):
        some = rows[start : start + 90]
        cut.add(entries(len(some), start), Embeddings.csr(torch.from_numpy(some)))
    for index in (whole, cut):
        for found, scores in zip(index.search(queries, top_k=50, unmatched=True), expected, strict=True):
            order = np.argsort(-scores, kind="stable")[:50]
            assert [hit.row for hit in found] == order.tolist()
            assert [hit.score for hit in found] == scores[order].tolist()
        assert [hit.row for hit in index.search(queries[3], top_k=500)[0]] == [
            row for row in np.argsort(-expected[3], kind="stable") if expected[3, row] != 0
        ]


def test_a_query_without_a_known_term_finds_nothing() -> None:
    index = SparseIndex()
    index.add(entries(2), np.array([[0, 2, 0, 0], [0, 0, 0, 0]]))
    assert index.search(np.array([[1, 0, 0, 1], [0, 0, 0, 0]])) == [[], []]
    assert [hit.score for hit in index.search(np.array([[0, 3, 0, 1]]), unmatched=True)[0]] == [6, 0]


@pytest.mark.parametrize(
    ("dtype", "bytes_a_posting", "error"), [("float32", 6, 0), ("float16", 4, 5e-4), ("uint8", 3, 5e-3)]
)
def test_bytes_and_error_of_a_number_format(dtype: Any, bytes_a_posting: int, error: float, tmp_path: Path) -> None:
    rows, queries = matrix(2000, shift=0.5), matrix(20, seed=1)
    made = SparseIndex(dtype=dtype, made_by={"model": "splade", "identity": "abc"})
    made.add(entries(2000), rows)
    made.save(tmp_path)
    opened = SparseIndex.open(tmp_path, made_by={"model": "splade", "identity": "abc"})
    arrays = opened.segments.parts[0].arrays
    assert sum(arrays[name].nbytes for name in ("rows", "weights")) == bytes_a_posting * np.count_nonzero(rows)
    expected, allowed = queries @ rows.T, np.ones(2000, dtype=bool)
    scores = np.stack(list(opened.scores(queries, allowed, unmatched=True)))
    assert np.abs(scores - expected).max() <= error * np.abs(expected).max() + 1e-5
    assert made.search(queries[:3]) == opened.search(queries[:3])


def test_a_term_of_one_weight_keeps_it_in_a_byte() -> None:
    index = SparseIndex(dtype="uint8")
    index.add(entries(3), np.array([[0, 0.3, -2], [0, 0.3, 5], [0, 0, 0]], dtype=np.float32))
    found = index.scores(np.array([[1, 1, 0], [0, 0, 1]]), np.ones(3, dtype=bool), unmatched=True)
    np.testing.assert_allclose(list(found), [[0.3, 0.3, 0], [-2, 5, 0]], rtol=1e-6)


def test_more_rows_than_two_bytes_count() -> None:
    count = (1 << 16) + 3
    index = SparseIndex()
    index.add(entries(count), Packed(
        values=np.ones(count, np.float32),
        offsets=np.arange(count + 1),
        indices=(np.arange(count) % 7).astype(np.int32),
        dim=1 << 17,
    ))  # fmt: skip
    query = Packed(
        values=np.ones(1, np.float32), offsets=np.array([0, 1]), indices=np.array([(count - 1) % 7]), dim=1 << 17
    )
    (scores,) = index.scores(query, np.ones(count, dtype=bool))
    assert (scores > 0).sum() == len(range((count - 1) % 7, count, 7)) and scores[-1] == 1


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_every_form_of_sparse_rows_is_read() -> None:
    dense = matrix(9)
    scipy = pytest.importorskip("scipy.sparse")
    tensor = torch.from_numpy(dense)
    forms = [dense, tensor, tensor.to_sparse(), tensor.to_sparse_csr(), [*tensor.to_sparse()], scipy.coo_matrix(dense)]
    forms += [Embeddings.csr(tensor), Packed.of(tensor.to_sparse())]
    for form in forms:
        packed = sparse_rows(form)
        back = np.zeros_like(dense)
        back[np.repeat(np.arange(9), np.diff(packed.offsets)), packed.indices] = packed.values  # type: ignore[arg-type]
        np.testing.assert_array_equal(back, dense)
        assert SparseIndex().rows_in(form) == 9
    for one in (tensor[2], tensor.to_sparse()[2], dense[2]):
        np.testing.assert_array_equal(sparse_rows(one).values, dense[2][dense[2] != 0])


def test_messages() -> None:
    with pytest.raises(InputError, match="dtype: expected one of float32, float16, uint8, got 'int4'"):
        SparseIndex(dtype="int4")  # type: ignore[arg-type]
    index = SparseIndex(dtype="float16")
    index.add(entries(9), matrix(9))
    with pytest.raises(ShapeError, match="rows: expected 300 dimensions as in the index, got 7"):
        index.add(entries(1, 9), np.ones((1, 7)))
    with pytest.raises(ShapeError, match="queries: expected 300 dimensions as in the index, got 7"):
        index.search(np.ones((1, 7)))
    with pytest.raises(ShapeError, match="rows: expected sparse rows .*, got token vectors of 4 dimensions"):
        index.add(entries(1, 9), [np.ones((3, 4))])
    bad = matrix(9)
    bad[7, 3] = np.nan
    with pytest.raises(InputError, match="rows: expected finite numbers, got NaN or infinity in row 7"):
        index.add(entries(9), bad)
    bad[7, 3] = 1e6
    with pytest.raises(InputError, match="dtype: expected weights up to 65504 for float16, got 1000000"):
        index.add(entries(9), bad)
    assert len(index) == 9
