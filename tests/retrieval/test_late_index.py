"""Late interaction over a corpus, and what all indexes of segments do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnitune.errors import InputError, ResourceError, ShapeError
from omnitune.ops.maxsim import EMPTY_DOCUMENT
from omnitune.retrieval.base import best_rows
from omnitune.retrieval.dense_index import DenseIndex
from omnitune.retrieval.late_index import POOLED, LateIndex
from omnitune.retrieval.lexical import LexicalIndex
from omnitune.retrieval.packed import Packed, maxsim_blocks, pool_tokens
from omnitune.retrieval.sparse_index import SparseIndex
from omnitune.retrieval.token_codec import CODECS, TokenCodec

DIM = 16


def unit(rows: Any) -> Any:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


def documents(count: int, seed: int = 0, tokens: int = 40) -> list[Any]:
    """Pages whose tokens lie around the page's own subjects."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        subjects = generator.normal(size=(4, DIM))
        length = int(generator.integers(5, tokens))
        noise = 0.3 * generator.normal(size=(length, DIM))
        made.append(unit(subjects[generator.integers(0, 4, length)] + noise).astype(np.float32))
    return made


def asked(pages: list[Any], rows: list[int], seed: int = 1) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [unit(pages[row][:5] + 0.1 * generator.normal(size=(5, DIM))).astype(np.float32) for row in rows]


def brute(query: Any, pages: list[Any]) -> Any:
    return np.array([(query @ page.T).max(axis=1).sum() for page in pages])


def entries(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"{row}", "document": f"{row % 3}.pdf", "page": row} for row in range(start, start + count)]


def test_maxsim_of_packed_rows_by_hand() -> None:
    eye = torch.eye(3)
    at = np.array([0, 1, 1, 3])
    scores = maxsim_blocks(eye, np.array([0, 2, 3]), lambda a, b: eye[at[a] : at[b]], at)
    np.testing.assert_array_equal(scores, [[1, EMPTY_DOCUMENT, 1], [0, EMPTY_DOCUMENT, 1]])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = documents(30)
    packed, query = Packed.of(pages), torch.from_numpy(np.concatenate(asked(pages, [3, 4])))
    offsets, at = np.array([0, 5, 10]), packed.offsets
    assert at is not None

    def decode(first: int, last: int) -> torch.Tensor:
        return torch.from_numpy(packed.values[at[first] : at[last]])

    whole = maxsim_blocks(query, offsets, decode, at)
    monkeypatch.setattr("omnitune.ops.maxsim._FEWEST", 30)
    monkeypatch.setattr("omnitune.ops.maxsim._PRODUCTS_AT_ONCE", 300)
    cut = maxsim_blocks(query, offsets, decode, at)
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    np.testing.assert_allclose(whole[0], brute(query[:5].numpy(), pages), atol=1e-5)


def test_pooled_vectors_are_means_of_neighbours() -> None:
    vectors = np.array([[2, 0], [0, 2], [0, 4], [5, 0]], dtype=np.float32)
    pooled, offsets = pool_tokens(vectors, np.array([0, 3, 3, 4]), 2)
    assert offsets.tolist() == [0, 2, 2, 3]
    torch.testing.assert_close(pooled, torch.tensor([[1.0, 0], [0, 1], [1, 0]]))


@pytest.mark.parametrize(
    ("codec", "error"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 0.01), ("residual4", 0.09), ("residual2", 0.3)]
)
def test_what_a_codec_keeps(codec: Any, error: float) -> None:
    vectors = np.concatenate(documents(300))
    made = TokenCodec(codec, DIM)
    made.fit(vectors)
    decoded = made.decode(made.encode(vectors)).numpy()
    assert np.linalg.norm(decoded - vectors, axis=1).mean() < error


def test_bytes_a_vector() -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(4000, 128))).astype(np.float32)
    held = {}
    for name in CODECS:
        codec = TokenCodec(name, 128)
        codec.fit(vectors)
        held[name] = sum(array.nbytes for array in codec.encode(vectors).values()) / len(vectors)
    expected = {"float32": 512, "float16": 256, "int8": 130, "residual4": 66, "residual2": 34, "binary": 16}
    assert held == expected


def test_binary_keeps_signs() -> None:
    vectors = np.array([[0.5, -0.1, 0.2], [-1, -1, 1]], dtype=np.float32)
    codec = TokenCodec("binary", 3)
    signs = torch.tensor([[1.0, -1, 1], [-1, -1, 1]]) / 3**0.5
    torch.testing.assert_close(codec.decode(codec.encode(vectors)), signs)


@pytest.mark.parametrize("codec", CODECS)
def test_the_right_page_is_found(codec: Any, tmp_path: Path) -> None:
    pages = documents(200)
    wanted = list(range(0, 200, 17))
    index = LateIndex(codec=codec, pooled=4)
    index.add(entries(120), pages[:120])
    index.save(tmp_path)
    index = LateIndex.open(tmp_path)
    index.add(entries(80, 120), pages[120:])
    for options in ({}, {"candidates": 50}, {"exact": True}):
        hits = LateIndex.open(tmp_path).search(asked(pages, wanted), top_k=3, **options)
        assert [found[0].entry["page"] for found in hits] == wanted
    exact = index.search(asked(pages, wanted), top_k=200, exact=True)[0]
    assert len(exact) == 200 and exact[0].rank == 1
    if codec == "float32":
        expected = brute(asked(pages, wanted)[0], pages)
        assert [hit.row for hit in exact] == np.argsort(-expected, kind="stable").tolist()
        assert [hit.score for hit in exact] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_pooled_vectors_propose_the_best_pages() -> None:
    """Nearly all of the ten best are among a fifth of the pages by default; four pooled vectors lose many."""
    generator = np.random.default_rng(0)

    def unit(rows: Any) -> Any:
        return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)

    shared = generator.normal(size=(200, 32))
    pages = []
    for _ in range(300):
        subjects = shared[generator.integers(0, 200, 24)] + 0.5 * generator.normal(size=(24, 32))
        place = np.sort(generator.integers(0, 24, 192))
        pages.append(unit(subjects[place] + 0.7 * generator.normal(size=(192, 32))))
    places = [(generator.integers(0, 188, 4)[:, None] + np.arange(4)).flatten() for _ in range(30)]
    queries = [
        unit(pages[10 * row][place] + 0.9 * unit(generator.normal(size=(16, 32)))) for row, place in enumerate(places)
    ]
    recall = {}
    for pooled in (POOLED, 4):
        index = LateIndex(pooled=pooled)
        index.add([{"id": str(row)} for row in range(300)], pages)
        best, found = (index.search(queries, **more) for more in ({"exact": True}, {"candidates": 60}))
        same = [len({h.row for h in a} & {h.row for h in b}) for a, b in zip(best, found, strict=True)]
        recall[pooled] = float(np.mean(same)) / 10
    assert recall[POOLED] > 0.95 > recall[4] + 0.1


def test_pooled_vectors_in_half_precision_are_still_read() -> None:
    """As indexes had them before they were kept in 8 bits."""
    rows = [np.eye(4, dtype=np.float32)[[n, n]] for n in range(4)]
    index = LateIndex(pooled=1)
    index.add([{"id": str(n)} for n in range(4)], rows)
    part = index.segments.parts[0]
    part.arrays["pooled"] = np.eye(4, dtype=np.float16)
    del part.arrays["pooled_scales"]  # type: ignore[attr-defined]
    assert [hits[0].row for hits in index.search(rows, top_k=1, candidates=1)] == [0, 1, 2, 3]


def test_candidates_of_another_index() -> None:
    pages = documents(60)
    index = LateIndex(pooled=0)
    index.add(entries(60), pages)
    index.remove(["7"])
    (found,) = index.search(asked(pages, [5]), rows=[np.array([9, 5, 7])])
    assert [hit.row for hit in found] == [5, 9]


@pytest.fixture(params=["late", "dense", "lexical", "sparse"])
def kind(request: pytest.FixtureRequest) -> Any:
    """An index, and a maker of rows and of a query for one."""
    if request.param == "late":
        pages = documents(60)
        return LateIndex, lambda rows: [pages[row] for row in rows], lambda row: asked(pages, [row])
    if request.param == "dense":
        vectors = unit(np.random.default_rng(0).normal(size=(60, 8)))
        return DenseIndex, lambda rows: vectors[list(rows)], lambda row: vectors[row : row + 1]
    if request.param == "sparse":
        weights = np.eye(60, 61, dtype=np.float32)
        weights[:, 60] = 0.1  # a term that all rows share
        return SparseIndex, lambda rows: weights[list(rows)], lambda row: weights[row : row + 1]
    return LexicalIndex, lambda rows: [f"word{row} common of all" for row in rows], lambda row: [f"word{row} common"]


def test_add_remove_update_where(kind: Any, tmp_path: Path) -> None:
    make, rows, query = kind
    index = make()
    index.add(entries(20), rows(range(20)))
    index.save(tmp_path)
    files = set(tmp_path.glob("*.safetensors"))
    index.add(entries(10, 20), rows(range(20, 30)))
    assert files < set(tmp_path.glob("*.safetensors"))  # nothing was rewritten
    reader = make.open(tmp_path)
    assert len(reader) == 30
    assert reader.search(query(25), top_k=1)[0][0].entry["page"] == 25
    assert {hit.entry["document"] for hit in reader.search(query(25), where={"document": "2.pdf"})[0]} == {"2.pdf"}
    both = reader.search(query(25), top_k=30, where={"document": ["2.pdf", "0.pdf"], "page": list(range(12))})[0]
    assert {hit.entry["page"] for hit in both} == {0, 2, 3, 5, 6, 8, 9, 11}
    assert index.remove(["25", "none"]) == 1 and len(index) == 29
    assert 25 not in [hit.entry["page"] for hit in make.open(tmp_path).search(query(25), top_k=30)[0]]
    assert reader.search(query(25), top_k=1)[0][0].entry["page"] == 25  # a reader keeps what it opened
    reader.refresh()
    assert reader.search(query(25), top_k=1)[0][0].entry["page"] != 25
    index.add([{"id": "3", "page": 333}], rows([25]))
    assert len(index) == 29
    assert index.search(query(25), top_k=1)[0][0].entry == {"id": "3", "page": 333}
    assert make.open(tmp_path).search(query(25), top_k=1)[0][0].entry["page"] == 333
    with pytest.raises(InputError, match=r"where: expected some of \['document', 'id', 'page'\], got \['dokument'\]"):
        index.search(query(1), where={"dokument": "2.pdf"})


def test_a_whole_segment_that_goes_is_deleted(kind: Any, tmp_path: Path) -> None:
    make, rows, query = kind
    index = make()
    index.save(tmp_path)
    assert len(make.open(tmp_path)) == 0 and make.open(tmp_path).search(query(1)) == [[]]
    index.add(entries(5), rows(range(5)))
    reader = make.open(tmp_path)
    index.remove([str(row) for row in range(5)])
    assert not list(tmp_path.glob("*.safetensors")) and len(make.open(tmp_path)) == 0
    assert reader.search(query(1), top_k=1)[0][0].entry["page"] == 1


def test_a_stop_leaves_the_index_as_it_was(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, rows, query = kind
    index = make()
    index.add(entries(5), rows(range(5)))
    index.save(tmp_path)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("omnitune.retrieval.segments.Segments._write", dies)
        index.add(entries(5, 5), rows(range(5, 10)))
    opened = make.open(tmp_path)
    assert len(opened) == 5
    opened.add(entries(5, 5), rows(range(5, 10)))
    assert opened.search(query(7), top_k=1)[0][0].entry["page"] == 7


def test_messages(kind: Any, tmp_path: Path) -> None:
    make, rows, query = kind
    index = make(made_by={"model": "ours", "identity": "abc"})
    index.add(entries(4), rows(range(4)))
    index.save(tmp_path)
    with pytest.raises(InputError, match=r"model: expected 'ours' \(abc\), which made the index, got 'theirs' \(def\)"):
        make.open(tmp_path, made_by={"model": "theirs", "identity": "def"})
    assert len(make.open(tmp_path, made_by={"model": "moved", "identity": "abc"})) == 4
    with pytest.raises(InputError, match="entries: expected one for each of 3 rows, got 2"):
        index.add(entries(2), rows(range(3)))
    with pytest.raises(InputError, match=r"entries: expected an id of its own for each, got \['1'\]"):
        index.add([{"id": "1"}, {"id": "1"}], rows(range(2)))
    with pytest.raises(InputError, match="top_k: expected at least 1, got 0"):
        index.search(query(1), top_k=0)
    other = LexicalIndex if make is not LexicalIndex else DenseIndex
    with pytest.raises(InputError, match=f"folder: expected an index of kind '{other.kind}', got '{make.kind}'"):
        other.open(tmp_path)
    facts = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / facts["segments"][0]["name"]).write_bytes(b"cut")
    with pytest.raises(InputError, match="folder: expected whole segments, got .* missing or cut"):
        make.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 2,')
    with pytest.raises(InputError, match=r"without a whole index\.json; make it again"):
        make.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="expected an index of format 2, got 1"):
        make.open(tmp_path)


def test_messages_of_late_interaction() -> None:
    index = LateIndex()
    index.add(entries(3), documents(3))
    with pytest.raises(ShapeError, match="rows: expected vectors of 16 dimensions as in the index, got 3"):
        index.add(entries(1, 9), [np.ones((2, 3))])
    with pytest.raises(ShapeError, match=r"rows: expected token vectors \(tokens, dim\) a document"):
        index.add(entries(2, 9), np.eye(16)[:2])
    with pytest.raises(ShapeError, match=r"queries: expected token vectors \(tokens, 16\) each"):
        index.search([np.ones((2, 3))])
    with pytest.raises(InputError, match="candidates: expected at least 1, got 0"):
        index.search([np.ones((2, 16))], candidates=0)
    with pytest.raises(InputError, match="codec: expected one of float32, .*, got 'zip'"):
        LateIndex(codec="zip")  # type: ignore[arg-type]


WRITER = """
import sys
import numpy as np
from omnitune.retrieval.dense_index import DenseIndex
index = DenseIndex.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for row in range(100, 160):
    index.add([{"id": str(row), "page": row}], np.full((1, 4), row, dtype=np.float32))
    index.remove([str(row - 3)])
"""


@pytest.mark.slow
def test_readers_while_one_writes(tmp_path: Path) -> None:
    index = DenseIndex(similarity="dot")
    index.add([{"id": "0", "page": 0}], np.zeros((1, 4)))
    index.save(tmp_path)
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], **pipes) as writer:
        assert writer.stdout.readline() == "ready\n"  # type: ignore[union-attr]
        writer.stdin.write("\n")  # type: ignore[union-attr]
        writer.stdin.flush()  # type: ignore[union-attr]
        while writer.poll() is None:
            for hit in DenseIndex.open(tmp_path).search(np.ones((1, 4)), top_k=9)[0]:
                assert hit.score == 4 * hit.entry["page"]
    assert writer.returncode == 0
    assert [hit.entry["page"] for hit in DenseIndex.open(tmp_path).search(np.ones((1, 4)))[0]] == [159, 158, 157, 0]


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    index = DenseIndex()
    index.save(tmp_path)
    with (
        index.segments.changing(),
        pytest.raises(ResourceError, match="another process is changing the index here"),
    ):
        DenseIndex.open(tmp_path).add([{"id": "1"}], np.eye(2)[:1])


def test_the_best_rows_of_equal_scores() -> None:
    scores = np.array([1, 3, 3, -np.inf, 3, 2], dtype=np.float32)
    assert best_rows(scores, 2).tolist() == [1, 2]
    assert best_rows(scores, 9).tolist() == [1, 2, 4, 5, 0]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_dense_scores_are_the_similaritys_and_a_page_is_its_best_window(similarity: str) -> None:
    from omnitune.ops.similarity import SimilarityFunction

    generator = np.random.default_rng(0)
    vectors, queries = (generator.normal(size=(9, 5)).astype(np.float32) for _ in range(2))
    index = DenseIndex(similarity=similarity)
    index.add(entries(3), [vectors[:4], vectors[4:5], vectors[5:]])
    expected = SimilarityFunction.to_similarity_fn(similarity)(queries, vectors).numpy()
    best = np.maximum.reduceat(expected, [0, 4, 5], axis=1)
    for found, scores in zip(index.search(queries, top_k=3), best, strict=True):
        assert [hit.score for hit in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-5)


def test_lexical_scores_are_those_of_bm25_over_what_is_there(texts: list[str]) -> None:
    from omnitune.ops.bm25 import BM25

    index = LexicalIndex()
    for start in range(0, len(texts), 7):
        index.add(entries(len(texts[start : start + 7]), start), texts[start : start + 7])
    queries = [*texts[:5], "a a the", "nowhere"]
    gone = {3, 4, 11}
    for removed in (set(), gone):
        index.remove(map(str, removed))
        left = [row for row in range(len(texts)) if row not in removed]
        expected = BM25([texts[row] for row in left]).scores(queries)
        allowed = index.segments.allowed(None)
        made = np.stack(list(index.scores(queries, allowed, unmatched=True)))
        np.testing.assert_allclose(made[:, left], expected, rtol=1e-5, atol=1e-6)
    assert index.search(["nowhere"]) == [[]]
