"""Evaluators of sparse encoders beside Sentence Transformers: equal keys, values, primary metrics and files."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.nano import nano_beir
from fixtures.words import sentences, triplets
from omnitune import SparseEncoder
from omnitune.evaluation import rank_fusion, sparse

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:Sparse invariant checks"),
]
rival = pytest.importorskip("sentence_transformers")


class Ours:
    """Ours, as they lie in one module of ST's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sparse, name, None) or getattr(rank_fusion, name)


@pytest.fixture(scope="module")
def both(tiny_masked_bert: Path) -> tuple[Any, Any]:
    """One checkpoint in both libraries."""
    return SparseEncoder(str(tiny_masked_bert), device="cpu"), rival.SparseEncoder(str(tiny_masked_bert), device="cpu")


def collection() -> dict[str, Any]:
    corpus = {f"d{i}": text for i, text in enumerate(sentences(45))}
    queries = {f"q{i}": text for i, text in enumerate(sentences(6, seed=3))}
    relevant = {query: {f"d{i}", f"d{i * 5 + 2}"} for i, query in enumerate(queries)}
    return {"queries": queries, "corpus": corpus, "relevant_docs": relevant}


SAMPLES = [
    {"query": query, "positive": pages[:1], "negative": pages[1 : 3 + number]}
    for number, (query, pages) in enumerate(
        zip(sentences(4, seed=5), [sentences(7, seed=seed) for seed in range(4)], strict=True)
    )
]
ROWS = triplets(24, seed=8)
PAIRS = (ROWS["anchor"], ROWS["positive"])
LABELS = [int(row % 3 > 0) for row in range(24)]
ALL = ["cosine", "dot", "euclidean", "manhattan"]


def made(module: Any, model: Any) -> dict[str, Any]:
    return {
        "retrieval": module.SparseInformationRetrievalEvaluator(**collection(), name="t", corpus_chunk_size=20),
        "retrieval of few": module.SparseInformationRetrievalEvaluator(
            **collection(), name="u", max_active_dims=5, ndcg_at_k=[3], query_prompt="find: "
        ),
        "reranking": module.SparseRerankingEvaluator(SAMPLES, at_k=3, name="r"),
        "reranking one by one": module.SparseRerankingEvaluator(SAMPLES, use_batched_encoding=False),
        "triplets": module.SparseTripletEvaluator(*ROWS.values(), name="p", similarity_fn_names=ALL),
        "triplets of few": module.SparseTripletEvaluator(*ROWS.values(), max_active_dims=3),
        "pairs": module.SparseEmbeddingSimilarityEvaluator(*PAIRS, LABELS, name="s", similarity_fn_names=ALL),
        "classes": module.SparseBinaryClassificationEvaluator(*PAIRS, LABELS, similarity_fn_names=ALL),
        "errors": module.SparseMSEEvaluator(*PAIRS, teacher_model=model, name="e", max_active_dims=4),
        "translations": module.SparseTranslationEvaluator(*PAIRS, name="l"),
    }


def test_keys_values_primary_metrics_and_files_are_equal(both: tuple[Any, Any], tmp_path: Path) -> None:
    from sentence_transformers.sparse_encoder import evaluation as theirs

    found: list[Any] = []
    for module, model in zip((Ours(), theirs), both, strict=True):
        out = tmp_path / str(len(found))
        out.mkdir()
        evaluators = made(module, model)
        values = {name: evaluator(model, output_path=str(out)) for name, evaluator in evaluators.items()}
        primary = {name: evaluator.primary_metric for name, evaluator in evaluators.items()}
        config = {name: evaluator.get_config_dict() for name, evaluator in evaluators.items()}
        files = {path.name: [*csv.reader(path.read_text().splitlines())] for path in out.glob("*.csv")}
        found.append((values, primary, config, files))
    (ours, primary, config, files), (wanted, *others) = found
    assert [primary, config] == others[:2]
    for name in wanted:
        assert ours[name].keys() == wanted[name].keys(), name
        assert ours[name] == pytest.approx(wanted[name], rel=1e-4, abs=2e-5), name
    assert files.keys() == others[2].keys()
    for name, rows in others[2].items():
        assert files[name][0] == rows[0], name
        for mine, reference in zip(files[name][1:], rows[1:], strict=True):
            assert [float(x) for x in mine] == pytest.approx([float(x) for x in reference], rel=1e-4, abs=2e-5), name


def test_trained_weights_score_alike(trained: Path) -> None:
    from sentence_transformers.sparse_encoder import evaluation as theirs

    found = []
    for library, module in ((SparseEncoder, Ours()), (rival.SparseEncoder, theirs)):
        model = library(str(trained), device="cpu")
        evaluators = made(module, model)
        found.append({name: evaluators[name](model) for name in ("retrieval of few", "reranking", "pairs")})
    for name, wanted in found[1].items():
        assert found[0][name].keys() == wanted.keys(), name
        assert found[0][name] == pytest.approx(wanted, rel=1e-4, abs=2e-5), name


def test_corpus_embeddings_are_counted(both: tuple[Any, Any]) -> None:
    from sentence_transformers.sparse_encoder import evaluation as theirs

    values = []
    for module, model in zip((sparse, theirs), both, strict=True):
        evaluator = module.SparseInformationRetrievalEvaluator(**collection())
        held = model.encode_document(list(collection()["corpus"].values()))
        values.append(evaluator(model, None, -1, -1, None, held))
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-5)
    assert values[0] == pytest.approx(sparse.SparseInformationRetrievalEvaluator(**collection())(both[0]), abs=1e-6)


def test_nano_beir(both: tuple[Any, Any], tmp_path: Path) -> None:
    from sentence_transformers.sparse_encoder import evaluation as theirs

    nano_beir(tmp_path)
    values = []
    for module, model in zip((sparse, theirs), both, strict=True):
        evaluator = module.SparseNanoBEIREvaluator(["msmarco", "nq"], str(tmp_path), max_active_dims=6)
        values.append((evaluator(model), evaluator.primary_metric, evaluator.name))
    assert values[0][1:] == values[1][1:]
    assert values[0][0].keys() == values[1][0].keys()
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-4, abs=1e-5)


def ranked(query: str, positive: Any, documents: list[str]) -> dict[str, Any]:
    return {"query_id": query, "query": f"text of {query}", "positive": positive, "documents": documents}


DENSE = [
    ranked("q0", ["a"], ["b", "a", "c"]),
    ranked("q1", ["x", "y"], ["a", "b", "x"]),
    ranked("q2", "z", ["a", "b", "c"]),
    ranked("q3", ["a", "d"], ["d", "d", "a"]),
]
SPARSE = [
    ranked("q0", ["a"], ["a", "d"]),
    ranked("q1", ["x", "y"], ["b", "c"]),
    ranked("q2", "z", ["c", "z", "b"]),
    ranked("q3", ["a", "d"], ["e", "a"]),
]


def test_reciprocal_rank_fusion(tmp_path: Path) -> None:
    from sentence_transformers.sparse_encoder import evaluation as theirs

    found = []
    for module in (rank_fusion, theirs):
        out = tmp_path / str(len(found))
        out.mkdir()
        evaluator = module.ReciprocalRankFusionEvaluator(
            DENSE, SPARSE, at_k=2, rrf_k=3, name="h", write_predictions=True
        )
        values = evaluator(str(out), 1, 20)
        files = {path.name: path.read_text().splitlines() for path in out.iterdir()}
        (table,) = (lines for name, lines in files.items() if name.endswith("csv"))
        (lines,) = (lines for name, lines in files.items() if name.endswith("jsonl"))
        rows = [*csv.reader(table)]
        found.append((values, rows[0], [float(x) for x in rows[1]], list(map(json.loads, lines)), sorted(files)))
        config = evaluator.get_config_dict()
        assert config == {"at_k": 2, "rrf_k": 3, "write_predictions": True}
    ours, wanted = found
    assert ours[0] == pytest.approx(wanted[0])
    assert ours[2] == pytest.approx(wanted[2])
    assert (ours[1], *ours[3:]) == (wanted[1], *wanted[3:])


def test_search_and_similarities_equal_the_rivals() -> None:
    from sentence_transformers import util as theirs

    from omnitune import util

    draw = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
    draw *= torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) < 0.3
    a, b = draw[:8].to_sparse(), draw[8:].to_sparse()
    for name in ("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"):
        torch.testing.assert_close(getattr(util, name)(a, b), getattr(theirs, name)(a, b), rtol=1e-4, atol=1e-4)
        ours, wanted = (one.semantic_search(a, b, top_k=5, score_function=getattr(one, name)) for one in (util, theirs))
        assert [[hit["corpus_id"] for hit in hits] for hits in ours] == [
            [hit["corpus_id"] for hit in hits] for hits in wanted
        ]
    for name in ("pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim", "pairwise_manhattan_sim"):
        torch.testing.assert_close(getattr(util, name)(a, a), getattr(theirs, name)(a, a), rtol=1e-4, atol=1e-4)
