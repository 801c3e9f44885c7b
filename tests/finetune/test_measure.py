"""Measuring a retriever: hand-worked ranks, agreement with the evaluator's metrics, quantized pages."""

import numpy as np
import pytest
import torch

from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.evaluation.ranking import Hits
from omnitune.finetune.measure import (
    TestSet,
    bm25_search,
    contrast,
    cosine_search,
    interval,
    score_search,
    stored_bytes,
)
from omnitune.finetune.recipe import Evaluation
from omnitune.ops.similarity import cos_sim


def ranking(scores):
    """The search whose scores are given."""

    def search(block):
        ranked = torch.tensor(scores)[block].sort(dim=1, descending=True, stable=True)
        return Hits(ranked.values, ranked.indices)

    return search


def scores_of(search, queries):
    """Scores by page instead of by rank `(queries, pages)`."""
    found = search(slice(0, queries))
    return torch.empty_like(found.scores).scatter(1, found.rows, found.scores)


def small_test(rows=(4, 6, 9)) -> TestSet:
    return TestSet(queries=["a", "b"], relevant=[[6], [4, 9]], rows=list(rows), clusters=[6, 4])


def test_ranks_by_hand():
    found = score_search(ranking([[0.9, 0.5, 0.1], [0.2, 0.9, 0.3]]), small_test())
    assert found.rank.tolist() == [2, 2]
    assert found.best.tolist() == [6, 9]
    assert found.first.tolist() == [4, 6]
    log = np.log2
    assert found.metrics["ndcg@10"][0] == pytest.approx(1 / log(3))
    assert found.metrics["ndcg@10"][1] == pytest.approx((1 / log(3) + 1 / log(4)) / (1 + 1 / log(3)))
    assert found.metrics["recall@1"].tolist() == [0, 0]


def test_equal_scores_keep_corpus_order():
    found = score_search(ranking([[0.5, 0.5, 0.5]] * 2), small_test())
    assert found.first.tolist() == [4, 4]
    assert found.rank.tolist() == [2, 1]


def test_pages_that_are_not_found_are_never_hits():
    missing = -torch.inf
    found = score_search(ranking([[1.0, missing, missing], [missing, 2.0, missing]]), small_test())
    assert found.rank.tolist() == [4, 4]
    assert found.best.tolist() == [6, 4]
    assert found.metrics["ndcg@10"].tolist() == [0, 0]


def test_blocks_of_queries_change_nothing(monkeypatch):
    generator = np.random.default_rng(3)
    pages, queries = generator.normal(size=(40, 16)), generator.normal(size=(23, 16))
    test = TestSet(
        queries=[str(n) for n in range(23)],
        relevant=[[n] for n in range(23)],
        rows=list(range(40)),
        clusters=list(range(23)),
    )
    whole = score_search(cosine_search((queries.astype("f4"), pages.astype("f4")), test.rows), test)
    monkeypatch.setattr("omnitune.finetune.measure._SCORES_AT_ONCE", 40 * 4)
    parts = score_search(cosine_search((queries.astype("f4"), pages.astype("f4")), test.rows), test)
    assert parts.rank.tolist() == whole.rank.tolist()
    assert parts.metrics["map@100"].tolist() == whole.metrics["map@100"].tolist()


def test_cut_dimensions_are_scaled_back():
    pages = np.array([[3.0, 4.0, 100.0], [4.0, 3.0, 0.0]], dtype="f4")
    scores = scores_of(cosine_search((np.array([[0.6, 0.8, 5.0]], dtype="f4"), pages), [0, 1], dim=2), 1)
    assert scores.numpy() == pytest.approx(np.array([[1.0, 0.96]]), abs=1e-6)


@pytest.mark.parametrize(("precision", "close"), [("int8", 0.01), ("uint8", 0.01), ("binary", 0.4), ("ubinary", 0.4)])
def test_quantized_pages_score_close_to_full_ones(precision, close):
    generator = np.random.default_rng(0)
    pages, queries = generator.normal(size=(50, 60)).astype("f4"), generator.normal(size=(9, 60)).astype("f4")
    full = scores_of(cosine_search((queries, pages), range(50)), 9)
    few = scores_of(cosine_search((queries, pages), range(50), precision=precision), 9)
    assert 0 < (full - few).abs().max() < close


def test_stored_bytes():
    assert [stored_bytes(60, p) for p in ("float32", "int8", "binary")] == [240, 60, 8]


def test_contrast_resamples_clusters_and_repeats_itself():
    test = TestSet(queries=["q"] * 40, relevant=[[0]] * 40, rows=[0, 1], clusters=[n // 2 for n in range(40)])
    low, high = (score_search(ranking([row] * 40), test) for row in ([0.0, 1.0], [1.0, 0.0]))
    settings = Evaluation(resamples=500)
    found = contrast(low, high, test, settings, label="x", dim=8)
    assert found.verdict == "better"
    assert found.base.value == pytest.approx(1 / np.log2(3)) and found.finetuned.value == 1.0
    assert found == contrast(low, high, test, settings, label="x", dim=8)
    same = contrast(low, low, test, settings, label="x", dim=8)
    assert same.verdict == "no measurable difference" and same.p_value == 1.0


def test_the_interval_of_a_mean_is_around_it():
    values = np.random.default_rng(0).random(60)
    test = TestSet(queries=["q"] * 60, relevant=[[0]] * 60, rows=[0], clusters=list(range(60)))
    found = interval(values, test, Evaluation(resamples=500))
    assert found.value == pytest.approx(values.mean()) and found.low < found.value < found.high


def test_bm25_finds_pages_that_share_a_word_and_no_others():
    found = bm25_search(["granite tide", "moss"], ["tide tables", "granite and tide", "bread"])(slice(None))
    assert found.rows[0].tolist() == [1, 0, 2] and (found.scores[0] > -torch.inf).tolist() == [True, True, False]
    assert (found.scores[1] == -torch.inf).all()
    second = bm25_search(["granite tide", "moss"], ["tide tables", "granite and tide", "bread"])(slice(1, 2))
    assert second.scores.shape == (1, 3) and (second.scores == -torch.inf).all()


def test_numbers_are_those_of_the_evaluator():
    """One definition of NDCG: the evaluator ranks the same embeddings, given as texts to a model of a lookup table."""
    generator = np.random.default_rng(1)
    pages, queries = generator.normal(size=(30, 8)).astype("f4"), generator.normal(size=(12, 8)).astype("f4")
    test = TestSet(
        queries=[str(n) for n in range(12)],
        relevant=[[n, n + 12] for n in range(12)],
        rows=list(range(30)),
        clusters=list(range(12)),
    )
    ours = score_search(cosine_search((queries, pages), test.rows), test)
    evaluator = InformationRetrievalEvaluator(
        {n: f"q{n}" for n in range(12)},
        {f"{n:02}": f"p{n}" for n in range(30)},
        {n: {f"{n:02}", f"{n + 12:02}"} for n in range(12)},
    )
    table = {f"q{n}": row for n, row in enumerate(queries)} | {f"p{n}": row for n, row in enumerate(pages)}

    class Lookup:
        similarity_fn_name = "cosine"

        def encode(self, texts, **kwargs):
            return torch.from_numpy(np.stack([table[text] for text in texts]))

        encode_query = encode_document = encode

        def similarity(self, one, other):
            return cos_sim(one, other)

    theirs = evaluator.rank_dims(Lookup(), [8])[8].per_query
    assert theirs.keys() >= {"ndcg@10", "recall@10", "mrr@10"}
    for name in ("ndcg@10", "recall@10", "mrr@10"):
        assert ours.metrics[name] == pytest.approx(theirs[name].numpy())
