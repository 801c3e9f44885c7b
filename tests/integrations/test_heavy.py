"""Adapters of frameworks that are installed by hand: mteb, BERTopic, KeyBERT, txtai, Ragas, each the real library.

They ask for other versions of packages than the rest of the tests, so the extra `dev` leaves them out. Run in an
environment that has them: `python -m pytest tests/integrations/test_heavy.py`. They ran with mteb 2.26.24, BERTopic
0.17.4, KeyBERT 0.9.0, txtai 9.14.0, and Ragas 0.4.3 with langchain-community 0.3.31, as no later one suits it.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnitune import CrossEncoder, SentenceTransformer
from omnitune.evaluation.information_retrieval import InformationRetrievalEvaluator

TEXTS = ["the bearing is greased weekly", "prices are in euros", "the pump runs at night", "a dog barks", "red apples"]
QUERIES = ["how often is it greased", "what do prices mean", "when does the pump run"]


@pytest.fixture(scope="module")
def encoder(st_dense: Path) -> SentenceTransformer:
    return SentenceTransformer(str(st_dense), device="cpu")


@pytest.mark.filterwarnings("default")
def test_mteb_scores_equal_our_evaluator(encoder: SentenceTransformer, tiny_bert: Path, tmp_path: Path) -> None:
    mteb: Any = pytest.importorskip("mteb", reason="mteb is not installed")
    import datasets
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    from omnitune.integrations.mteb import OmnituneEncoder, OmnituneReranker, OmnituneRetriever
    from omnitune.retrieval.retriever import Retriever
    from omnitune.retrieval.stages import DenseStage

    relevant = {"q0": {"d0": 1}, "q1": {"d1": 1}, "q2": {"d2": 1}}

    class Local(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="LocalPages",
            dataset={"path": "local/pages", "revision": "1"},
            description="pages",
            reference=None,
            type="Retrieval",
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=("2026-01-01", "2026-01-02"),
            domains=["Written"],
            task_subtypes=[],
            license="cc0-1.0",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            corpus = [{"id": f"d{n}", "title": "", "text": text} for n, text in enumerate(TEXTS)]
            queries = [{"id": f"q{n}", "text": text} for n, text in enumerate(QUERIES)]
            self.dataset = {
                "default": {
                    "test": {
                        "corpus": datasets.Dataset.from_list(corpus),
                        "queries": datasets.Dataset.from_list(queries),
                        "relevant_docs": relevant,
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    def score(model: Any) -> float:
        result = mteb.evaluate(model, [Local()], cache=None, co2_tracker=False)
        return float(result.task_results[0].scores["test"][0]["ndcg_at_10"])

    ours = InformationRetrievalEvaluator(
        {f"q{n}": text for n, text in enumerate(QUERIES)},
        {f"d{n}": text for n, text in enumerate(TEXTS)},
        {query: set(documents) for query, documents in relevant.items()},
        score_functions={"dot": encoder.similarity},
        write_csv=False,
    )(encoder)
    key = next(name for name in ours if name.endswith("ndcg@10"))
    adapted = OmnituneEncoder(encoder)
    assert score(adapted) == pytest.approx(ours[key], abs=1e-5)
    assert adapted.mteb_model_meta.modalities == ["text"]
    other = SentenceTransformer(encoder.model_card_data.base_model, device="cpu", prompts={"query": "another: "})
    assert OmnituneEncoder(other).mteb_model_meta.revision != adapted.mteb_model_meta.revision
    # A whole retriever through the search protocol: one dense stage ranks as the encoder does, by cosine.
    retriever = OmnituneRetriever(
        lambda pages: Retriever.build(pages, [DenseStage(model=encoder)], show_progress=False),
        name="omnitune/retriever",
        revision="1",
    )
    assert score(retriever) == pytest.approx(ours[key], abs=1e-5)
    reranker = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")
    pairs = [(QUERIES[0], text) for text in TEXTS]
    batches = [[{"text": [one[side] for one in pairs]}] for side in (0, 1)]
    made = OmnituneReranker(reranker, name="omnitune/reranker").predict(*batches)
    np.testing.assert_allclose(made, reranker.predict(pairs), atol=1e-6)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("library", ["bertopic", "keybert"])
def test_backends_of_topics_and_keywords(library: str, encoder: SentenceTransformer) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    __import__(f"omnitune.integrations.{library}")
    adapter = sys.modules[f"omnitune.integrations.{library}"].OmnituneBackend(encoder)
    np.testing.assert_allclose(adapter.embed(TEXTS), encoder.encode(TEXTS), atol=1e-6)
    if library == "keybert":
        from keybert import KeyBERT

        keywords = KeyBERT(model=adapter).extract_keywords(TEXTS[0], top_n=2)
        words = ["bearing", "greased", "weekly"]
        similar = encoder.similarity(encoder.encode([TEXTS[0]]), encoder.encode(words))[0]
        assert keywords[0][0] == words[int(similar.argmax())]
    else:
        from bertopic.backend._utils import select_backend

        assert select_backend(adapter) is adapter


@pytest.mark.filterwarnings("default")
def test_txtai_tells_queries_from_documents(encoder: SentenceTransformer, st_dense: Path) -> None:
    txtai: Any = pytest.importorskip("txtai", reason="txtai is not installed")
    index = txtai.Embeddings(path=str(st_dense), method="omnitune.integrations.txtai.OmnituneVectors")
    index.index(TEXTS)
    query = encoder.encode_query(QUERIES[0], normalize_embeddings=True)
    scores = encoder.encode_document(TEXTS, normalize_embeddings=True) @ query
    found = index.search(QUERIES[0], 1)
    assert found[0][0] == int(scores.argmax())
    assert found[0][1] == pytest.approx(float(scores.max()), abs=1e-4)


@pytest.mark.filterwarnings("default")
def test_ragas(encoder: SentenceTransformer) -> None:
    pytest.importorskip("ragas", reason="ragas is not installed")
    from omnitune.integrations.ragas import OmnituneEmbeddings

    adapter = OmnituneEmbeddings(encoder)
    np.testing.assert_allclose(adapter.embed_text(TEXTS[0]), encoder.encode(TEXTS[0]), atol=1e-6)
    np.testing.assert_allclose(asyncio.run(adapter.aembed_texts(TEXTS[:2])), encoder.encode(TEXTS[:2]), atol=1e-6)
