"""Search for sparse embeddings in four engines: Qdrant itself, in memory, and small doubles of the others' clients."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from omnitune.compat import sparse_search
from omnitune.errors import InputError, MissingExtraError

DOCUMENTS = [
    [("bearing", 2.0), ("grease", 1.0)],
    [("oil", 1.5), ("v.2", 0.5)],
    [("oil", 0.5), ("grease", 2.0)],
]
QUERIES = [[("grease", 1.0), ("v.2", 3.0)], [("nothing", 1.0)]]


class Engine:
    """Answers as Elasticsearch and OpenSearch do, and keeps what it is told."""

    def __init__(self, *hosts: Any, **kwargs: Any) -> None:
        self.calls: list[Any] = []
        self.options = {"hosts": hosts[0]} | kwargs if hosts else kwargs
        self.held: dict[str, dict[str, float]] = {}
        self.indices = SimpleNamespace(
            create=lambda **call: self.calls.append(("create", call["body"])),
            refresh=lambda index: self.calls.append("refresh"),
        )

    def search(self, index: str, body: Any) -> Any:
        self.calls.append(("search", body))
        if "neural_sparse" in body["query"]:
            asked = body["query"]["neural_sparse"]["tokens"]["query_tokens"]
        else:
            clauses = [clause["rank_feature"] for clause in body["query"]["bool"]["should"]]
            asked = {clause["field"].removeprefix("tokens."): clause["boost"] for clause in clauses}
        scores = {row: sum(asked.get(word, 0) * w for word, w in words.items()) for row, words in self.held.items()}
        best = sorted((row for row in scores if scores[row] > 0), key=lambda row: -scores[row])[: body["size"]]
        return {"hits": {"hits": [{"_id": row, "_score": scores[row]} for row in best]}}


def bulk(engine: Engine, actions: list[Any]) -> None:
    engine.calls.append(("bulk", [action["_source"] for action in actions]))
    engine.held |= {action["_id"]: action["_source"]["tokens"] for action in actions}


ENGINES = {"elasticsearch": ("elasticsearch", "Elasticsearch"), "opensearch": ("opensearchpy", "OpenSearch")}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The search of an engine whose client is a double."""
    package, client = ENGINES[request.param]
    double, helpers = ModuleType(package), ModuleType(f"{package}.helpers")
    helpers.bulk = bulk  # type: ignore[attr-defined]
    double.helpers = helpers  # type: ignore[attr-defined]
    setattr(double, client, Engine)
    monkeypatch.setitem(sys.modules, package, double)
    monkeypatch.setitem(sys.modules, f"{package}.helpers", helpers)
    return f"semantic_search_{request.param}"


def test_an_index_of_rank_features_is_made_and_searched_again(engine: str) -> None:
    search = getattr(sparse_search, engine)
    found, seconds, index = search(QUERIES, DOCUMENTS, top_k=2, output_index=True, timeout=3)
    client, name = index
    assert seconds >= 0 and name.startswith("sparse_index_")
    assert client.options == {"hosts": "http://localhost:9200", "timeout": 3}
    first = [(hit["corpus_id"], hit["score"]) for hit in found[0]]
    assert first == [(2, 2.0), (1, 1.5)] and found[1] == []
    again, _ = search(QUERIES[:1], corpus_index=index, top_k=1)
    assert again == [found[0][:1]]
    assert sum(call[0] == "create" for call in client.calls) == 1


@pytest.mark.parity
def test_the_engine_is_told_what_the_rival_tells_it(engine: str) -> None:
    theirs = pytest.importorskip("sentence_transformers.sparse_encoder.search_engines")
    told = []
    for module in (sparse_search, theirs):
        found, _, (client, _) = getattr(module, engine)(QUERIES, DOCUMENTS, top_k=2, output_index=True)
        told.append((found, client.calls, client.options))
    assert told[0] == told[1]


@pytest.mark.parametrize("library", ["omnitune", pytest.param("sentence_transformers", marks=pytest.mark.parity)])
def test_seismic_answers_in_any_order(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {"documents": []}

    class SeismicDataset:
        def add_document(self, name: str, words: Any, weights: Any) -> None:
            told["documents"].append((name, words.tolist(), weights.tolist()))

    class SeismicIndex:
        @classmethod
        def build_from_dataset(cls, dataset: Any, **options: Any) -> Any:
            told["built"] = options
            return cls()

        def batch_search(self, **call: Any) -> Any:
            told["asked"] = {name: [*map(list, x)] if isinstance(x, list) else x for name, x in call.items()}
            assert call["queries_ids"].dtype.kind == "U" and call["query_values"][0].dtype == np.float32
            return [[("2", 5.0, "1"), ("2", 4.0, "0")], [], [("0", 3.0, "2")]]

    double = ModuleType("seismic")
    double.__dict__.update(
        SeismicDataset=SeismicDataset, SeismicIndex=SeismicIndex, get_seismic_string=lambda: np.dtype("U30")
    )
    monkeypatch.setitem(sys.modules, "seismic", double)
    module = sparse_search
    if library != "omnitune":
        module = pytest.importorskip("sentence_transformers.sparse_encoder.search_engines")
    found, _, index = module.semantic_search_seismic(
        [*QUERIES, QUERIES[0]],
        DOCUMENTS,
        top_k=2,
        output_index=True,
        index_kwargs={"nknn": 3},
        search_kwargs={"sorted": 1},
    )
    assert found == [
        [{"corpus_id": 2, "score": 3.0}],
        [],
        [{"corpus_id": 1, "score": 5.0}, {"corpus_id": 0, "score": 4.0}],
    ]
    assert isinstance(index, SeismicIndex) and told["built"] == {"nknn": 3}
    assert told["documents"][1] == ("1", ["oil", "v.2"], [1.5, 0.5])
    asked = told["asked"]
    assert {name: asked[name] for name in ("k", "query_cut", "heap_factor", "sorted")} == {
        "k": 2,
        "query_cut": 10,
        "heap_factor": 0.7,
        "sorted": 1,
    }
    assert asked["query_components"][0] == ["grease", "v.2"]


@pytest.mark.filterwarnings("ignore")  # of Qdrant's own memory mode
def test_qdrant_finds_the_best_dot_products() -> None:
    pytest.importorskip("qdrant_client")
    draw = torch.rand(30, 40, generator=torch.Generator().manual_seed(0))
    draw *= draw > 0.7
    queries, corpus = draw[:4], draw[4:]
    found, _, index = sparse_search.semantic_search_qdrant(
        queries.to_sparse(), corpus.to_sparse(), top_k=5, output_index=True, location=":memory:"
    )
    expected = (queries @ corpus.T).topk(5)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == expected.indices.tolist()
    np.testing.assert_allclose([[hit["score"] for hit in hits] for hits in found], expected.values, rtol=1e-5)
    again, _ = sparse_search.semantic_search_qdrant(queries[1].to_sparse(), corpus_index=index, top_k=2)
    assert [hit["corpus_id"] for hit in again[0]] == expected.indices[1, :2].tolist()


def test_messages(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = getattr(sparse_search, engine)
    with pytest.raises(
        InputError, match="corpus_embeddings_decoded: expected the corpus, or corpus_index, got neither"
    ):
        search(QUERIES)
    for wrong in (QUERIES[0], "grease", torch.ones(2, 3)):
        with pytest.raises(InputError, match="query_embeddings_decoded: expected a list of words and weights for each"):
            search(wrong, DOCUMENTS)
    with pytest.raises(InputError, match="corpus_embeddings_decoded: expected a list of words and weights"):
        search(QUERIES, DOCUMENTS[0])


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package, extra in (
        ("qdrant", "qdrant_client", "qdrant"),
        ("elasticsearch", "elasticsearch", "elasticsearch"),
        ("opensearch", "opensearchpy", "opensearch"),
        ("seismic", "seismic", "seismic"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises((MissingExtraError, ImportError), match=rf"{package}.*pip install .*\[{extra}\]"):
            getattr(sparse_search, f"semantic_search_{name}")(QUERIES, DOCUMENTS)


def test_qdrant_takes_sparse_tensors() -> None:
    pytest.importorskip("qdrant_client")
    with pytest.raises(InputError, match=r"query_embeddings: expected a sparse \(COO\) tensor, got Tensor of shape"):
        sparse_search.semantic_search_qdrant(torch.ones(2, 3))
    with pytest.raises(InputError, match="corpus_embeddings: expected the corpus, or corpus_index, got neither"):
        sparse_search.semantic_search_qdrant(torch.ones(2, 3).to_sparse())
    with pytest.raises(InputError, match=r"corpus_embeddings: expected a sparse \(COO\) tensor, got None"):
        sparse_search._vectors(None, None, "corpus_embeddings")
