"""Stores give the retriever's own pages and scores; the same suite runs against every store.

A Qdrant server is tested where QDRANT_URL names one; otherwise its client's own engine in this process.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures import late_checkpoints
from fixtures.words import sentences
from omnitune import MultiVectorEncoder, SentenceTransformer
from omnitune.cli import index as command
from omnitune.cli.export import check
from omnitune.errors import EndpointError, InputError
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import DenseStage, Fusion, LateStage, LexicalStage
from omnitune.retrieval.store_check import measure_store
from omnitune.retrieval.stores import LanceStore, open_store

QUERIES = ["the pump", "how often is the bearing greased", "a page about the river", "a"]


@pytest.fixture(scope="module")
def retriever(st_dense: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    """Two vector stages and words over forty pages of two documents, some of several windows, one removed."""
    folder = tmp_path_factory.mktemp("late")
    pages = [
        {"id": f"{'ab'[n % 2]}.pdf#{n}", "document": f"{'ab'[n % 2]}.pdf", "page": n, "text": text}
        for n, text in enumerate(sentences(40, longest=18))
    ]
    pages[4]["text"] = " ".join(sentences(60, seed=5))
    pages[6]["id"] = "it's \"quoted\" 'twice'.pdf#6"
    dense = SentenceTransformer(str(st_dense), device="cpu")
    late = MultiVectorEncoder(str(late_checkpoints.native(folder / "model", tiny_bert)), device="cpu")
    stages = [LexicalStage(), DenseStage(model=dense), LateStage(model=late, codec="float16")]
    fusion = Fusion(weights={"lexical": 1.0, "dense": 1.0, "late": 1.0})
    made = Retriever.build(pages, stages, fusion=fusion, show_progress=False)
    made.remove([pages[8]["id"]])
    return made


@pytest.fixture(scope="module", params=["lancedb", "qdrant"])
def store(request: pytest.FixtureRequest, retriever: Retriever, tmp_path_factory: pytest.TempPathFactory) -> Any:
    package = {"lancedb": "lancedb", "qdrant": "qdrant_client"}[request.param]
    pytest.importorskip(package, reason=f"{package} is not installed")
    place = (
        str(tmp_path_factory.mktemp("store"))
        if request.param == "lancedb"
        else os.environ.get("QDRANT_URL", ":memory:")
    )
    opened = open_store(request.param, place)
    assert opened.write(retriever) == len(retriever) == 39
    return opened


def test_an_exact_search_gives_the_same_pages_and_scores(store: Any, retriever: Retriever) -> None:
    measured = {one.stage: one for one in measure_store(retriever, store, QUERIES)}
    assert measured.keys() == {"dense", "late"}
    for one in measured.values():
        assert one.recall == 1.0
        assert one.difference < 1e-5
        assert one.exact
    query = retriever.stages["dense"].encode_queries(["a page about the river"])  # type: ignore[union-attr]
    hits = retriever.only({"dense": 1.0}).search("a page about the river", 5)
    found = store.search("dense", np.asarray(query) / np.linalg.norm(query), 5)
    assert [one for one, _ in found] == [hit.id for hit in hits]
    np.testing.assert_allclose([score for _, score in found], [hit.score for hit in hits], atol=1e-5)


def test_what_others_wrote_is_not_replaced(retriever: Retriever, tmp_path: Path) -> None:
    lancedb, client = pytest.importorskip("lancedb"), pytest.importorskip("qdrant_client")
    lancedb.connect(str(tmp_path)).create_table("pages", [{"id": "theirs"}])
    with pytest.raises(InputError, match="store: expected a folder without a table 'pages' of others"):
        open_store("lancedb", str(tmp_path)).write(retriever)
    assert lancedb.connect(str(tmp_path)).open_table("pages").count_rows() == 1
    store = open_store("qdrant", ":memory:")
    models = client.models
    store.client.create_collection("pages", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    store.client.upsert("pages", [models.PointStruct(id=1, vector=[0.0, 1.0], payload={"a": 1})])
    with pytest.raises(InputError, match="store: expected no collection 'pages' of others"):
        store.write(retriever)
    assert store.client.count("pages").count == 1


def test_a_second_write_replaces_the_first(store: Any, retriever: Retriever) -> None:
    assert store.write(retriever) == 39
    assert len(store.search("dense", np.ones((1, 20), np.float32), 50)) == 39


def test_a_server_that_is_not_there_is_one_sentence(retriever: Retriever) -> None:
    pytest.importorskip("qdrant_client")
    with pytest.raises(EndpointError, match="store: expected a Qdrant server at http://127.0.0.1:9"):
        open_store("qdrant", "http://127.0.0.1:9").write(retriever)


def test_a_difference_is_told(store: Any, retriever: Retriever) -> None:
    """The comparison fails when a store holds other vectors than the retriever."""

    class Other(type(store)):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(store.__dict__)

        def search(self, kind: str, query: Any, *args: Any, **kwargs: Any) -> Any:
            return super().search(kind, query[:, ::-1].copy(), *args, **kwargs)

    assert not any(one.exact for one in measure_store(retriever, Other(), QUERIES))


def test_filters_and_words(store: Any, retriever: Retriever) -> None:
    query = np.asarray(retriever.stages["dense"].encode_queries(["the pump"]))  # type: ignore[union-attr]
    some = store.search("dense", query, 50, {"document": "a.pdf"})
    assert len(some) == len(retriever.search("the pump", 50, {"document": "a.pdf"}))
    assert {one.partition("#")[0] for one, _ in some} <= {"a.pdf", "it's \"quoted\" 'twice'.pdf"}
    pages = store.search("dense", query, 50, {"document": ["a.pdf", "b.pdf"], "page": [3, 4]})
    assert sorted(one.rpartition("#")[2] for one, _ in pages) == ["3", "4"]
    if isinstance(store, LanceStore):
        with pytest.raises(InputError, match="where: expected some of"):
            store.search("dense", query, 5, {"entry": "x' OR 1=1 --"})
        with pytest.raises(InputError, match="where: expected texts or whole numbers"):
            store.search("dense", query, 5, {"page": 1.5})
    assert store.search("dense", query, 5, {"document": "x' OR '1'='1"}) == []
    by_id = {page.entry["id"]: page.text for page in _pages(retriever)}
    wanted, text = next((one, text) for one, text in by_id.items() if len(text.split()) > 6)
    fused = [one for one, _ in store.hybrid("dense", query, text, 5)]
    assert wanted in fused
    assert wanted not in [one for one, _ in store.search("dense", query, 1)] or len(fused) == 5


def _pages(retriever: Retriever) -> Any:
    from omnitune.retrieval.stores import stored_pages

    return list(stored_pages(retriever))


def test_what_is_no_store_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--store: expected lancedb or qdrant, got 'faiss'"):
        open_store("faiss", str(tmp_path))
    pytest.importorskip("lancedb", reason="LanceDB is not installed")
    with pytest.raises(InputError, match="store: expected a table 'pages'"):
        LanceStore(tmp_path).search("dense", np.zeros((1, 20), np.float32))
    words = Retriever.build([{"id": "a#1", "text": "a pump"}], [LexicalStage()], show_progress=False)
    with pytest.raises(InputError, match="RUN: expected a retriever with vectors"):
        LanceStore(tmp_path).write(words)


def test_the_command_writes_measures_and_fails_on_a_difference(
    retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb", reason="LanceDB is not installed")
    retriever.save(tmp_path / "retriever")
    command.index(tmp_path, None, store="lancedb", to=None, url=None, api_key=None, ann=None)
    said = capsys.readouterr().out
    assert "39 pages are in" in said
    assert (tmp_path / "retriever" / "lancedb.json").is_file()
    checked = {"store": "lancedb", "data": None, "backend": "onnx", "file_name": None, "int8": False, "api_key": None}
    check(str(tmp_path), str(tmp_path / "lancedb"), **checked)
    assert "late, exact" in capsys.readouterr().out
    with pytest.raises(InputError, match="--url: expected the address"):
        command.index(tmp_path, None, store="qdrant", to=None, url=None, api_key=None, ann=None)
    with pytest.raises(InputError, match="FOLDER: expected a folder of documents to add, or --store"):
        command.index(tmp_path, None, store=None, to=None, url=None, api_key=None, ann=None)
    search = LanceStore.search
    monkeypatch.setattr(LanceStore, "search", lambda *args, **kwargs: search(*args, **kwargs)[::-1])
    with pytest.raises(Exception) as left:
        command.index(tmp_path, None, store="lancedb", to=None, url=None, api_key=None, ann=None)
    assert getattr(left.value, "exit_code", None) == 1
