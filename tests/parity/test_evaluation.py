"""Evaluators on the same checkpoint: the same keys, values, primary metric and files."""

import csv
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fixtures.agree import agree
from fixtures.words import sentences, triplets

pytestmark = pytest.mark.parity

LIBRARIES = ("omnitune", "sentence_transformers")
Make = Callable[[Any], Any]


def same_results(both: Any, path: Path, make: Make, folder: Path, *, csv_files: int = 1) -> dict[str, float]:
    """Run an evaluator of each library on its model and compare all that comes out."""
    results, files, primary = [], [], []
    for library, model in zip(LIBRARIES, both(path), strict=True):
        evaluator = make(importlib.import_module(f"{library}.sentence_transformer.evaluation"))
        (folder / library).mkdir()
        results.append(model.evaluate(evaluator, str(folder / library)))
        primary.append(evaluator.primary_metric)
        files.append(sorted((folder / library).glob("*.csv")))
    ours, theirs = results
    assert ours.keys() == theirs.keys()
    assert primary[0] == primary[1]
    assert primary[0] in ours
    for key in theirs:
        assert float(ours[key]) == pytest.approx(float(theirs[key]), abs=1e-6), key
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert len(files[1]) == csv_files
    for mine, reference in zip(*files, strict=True):
        rows, expected = ([*csv.reader(path.read_text().splitlines())] for path in (mine, reference))
        assert rows[0] == expected[0]
        for row, other in zip(rows[1:], expected[1:], strict=True):
            assert [float(x) for x in row] == pytest.approx([float(x) for x in other], abs=1e-6)
    return dict(ours)


def collection(documents: list[Any]) -> dict[str, Any]:
    """Queries, and documents of which some are relevant and one is relevant to two queries."""
    corpus = {f"d{i}": document for i, document in enumerate(documents)}
    queries = {f"q{i}": text for i, text in enumerate(sentences(8, seed=3))}
    relevant = {query: {f"d{i % len(corpus)}", f"d{(i * 5 + 2) % len(corpus)}"} for i, query in enumerate(queries)}
    return {"queries": queries, "corpus": corpus, "relevant_docs": relevant}


def test_retrieval_of_texts(both: Any, st_dense: Path, tmp_path: Path) -> None:
    data = collection(sentences(60))
    found = same_results(both, st_dense, lambda ev: ev.InformationRetrievalEvaluator(**data, name="t"), tmp_path)
    assert {"t_dot_ndcg@10", "t_dot_map@100", "t_dot_accuracy@1"} <= found.keys()


@pytest.mark.parametrize("name", ["tiny_qwen3_vl", "tiny_clip", "tiny_siglip"])
def test_retrieval_of_pages(
    request: pytest.FixtureRequest, both: Any, page_images: list[Image.Image], tmp_path: Path, name: str
) -> None:
    data = collection(page_images)
    options = {"corpus_chunk_size": 5, "ndcg_at_k": [3, 10], "map_at_k": [5], "batch_size": 4}
    path = request.getfixturevalue(name)
    same_results(both, path, lambda ev: ev.InformationRetrievalEvaluator(**data, **options), tmp_path)


def test_retrieval_by_dimension_in_sequence(both: Any, tiny_bert: Path, tmp_path: Path) -> None:
    data = collection(sentences(60))

    def make(ev: Any) -> Any:
        parts = [ev.InformationRetrievalEvaluator(**data, name=f"d{dim}", truncate_dim=dim) for dim in (32, 16, 4)]
        return ev.SequentialEvaluator(parts, main_score_function=lambda scores: scores[0])

    found = same_results(both, tiny_bert, make, tmp_path, csv_files=3)
    assert {"d32_cosine_ndcg@10", "d4_cosine_ndcg@10", "sequential_score"} <= found.keys()


@pytest.mark.parametrize(
    "prompts", [{"query_prompt": "query: "}, {"corpus_prompt": "document: ", "query_prompt": "a "}]
)
def test_retrieval_with_prompts(both: Any, tiny_bert: Path, tmp_path: Path, prompts: dict[str, str]) -> None:
    data = collection(sentences(60))
    same_results(both, tiny_bert, lambda ev: ev.InformationRetrievalEvaluator(**data, **prompts), tmp_path)


def test_triplets(both: Any, tiny_bert: Path, tmp_path: Path) -> None:
    rows = triplets(40, seed=8)

    def make(ev: Any) -> Any:
        return ev.TripletEvaluator(rows["anchor"], rows["positive"], rows["negative"], name="t", margin=0.01)

    same_results(both, tiny_bert, make, tmp_path)


@pytest.mark.parametrize("options", [{}, {"similarity_fn_names": ["cosine", "dot", "euclidean", "manhattan"]}], ids=str)
def test_pairs_with_scores(both: Any, tiny_bert: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    rows = triplets(40, seed=9)
    scores = [(i * 7 % 11) / 10 for i in range(40)]

    def make(ev: Any) -> Any:
        return ev.EmbeddingSimilarityEvaluator(rows["anchor"], rows["positive"], scores, name="s", **options)

    same_results(both, tiny_bert, make, tmp_path)


def test_pages_with_texts(both: Any, tiny_qwen3_vl: Path, page_images: list[Image.Image], tmp_path: Path) -> None:
    texts = sentences(12, seed=2)

    def make(ev: Any) -> Any:
        return ev.TripletEvaluator(texts, page_images, [*page_images[1:], page_images[0]])

    same_results(both, tiny_qwen3_vl, make, tmp_path)


def test_semantic_search(both: Any, tiny_bert: Path, texts: list[str]) -> None:
    ours, theirs = (importlib.import_module(f"{library}.util") for library in LIBRARIES)
    vectors = both(tiny_bert).ours.encode(texts, convert_to_tensor=True)
    for options in ({}, {"top_k": 3, "corpus_chunk_size": 7, "query_chunk_size": 2}):
        agree(*(module.semantic_search(vectors[:5], vectors, **options) for module in (ours, theirs)))
