"""Measuring a retriever: hand-worked ranks, agreement with the evaluator's metrics, quantized pages."""

import numpy as np
import pytest
import torch

from omnitune.finetune.measure import Resampling, Test, cosine_scorer, judge, stored_bytes


def scorer(scores):
    matrix = torch.tensor(scores)
    return lambda block: matrix[block]


def small_test(rows=(4, 6, 9)) -> Test:
    return Test(queries=["a", "b"], relevant=[[6], [4, 9]], rows=list(rows), clusters=[6, 4])


def test_ranks_by_hand():
    judged = judge(scorer([[0.9, 0.5, 0.1], [0.2, 0.9, 0.3]]), small_test())
    assert judged.rank.tolist() == [2, 2]
    assert judged.best.tolist() == [6, 9]
    assert judged.first.tolist() == [4, 6]
    log = np.log2
    assert judged.metrics["ndcg@10"][0] == pytest.approx(1 / log(3))
    assert judged.metrics["ndcg@10"][1] == pytest.approx((1 / log(3) + 1 / log(4)) / (1 + 1 / log(3)))
    assert judged.metrics["recall@1"].tolist() == [0, 0]


def test_equal_scores_keep_corpus_order():
    judged = judge(scorer([[0.5, 0.5, 0.5]] * 2), small_test())
    assert judged.first.tolist() == [4, 4]
    assert judged.rank.tolist() == [2, 1]


def test_pages_that_are_not_found_are_never_hits():
    missing = -torch.inf
    judged = judge(scorer([[1.0, missing, missing], [missing, 2.0, missing]]), small_test())
    assert judged.rank.tolist() == [4, 4]
    assert judged.best.tolist() == [6, 4]
    assert judged.metrics["ndcg@10"].tolist() == [0, 0]


def test_blocks_of_queries_change_nothing(monkeypatch):
    generator = np.random.default_rng(3)
    pages, queries = generator.normal(size=(40, 16)), generator.normal(size=(23, 16))
    test = Test(
        queries=[str(n) for n in range(23)],
        relevant=[[n] for n in range(23)],
        rows=list(range(40)),
        clusters=list(range(23)),
    )
    whole = judge(cosine_scorer(queries.astype("f4"), pages.astype("f4")), test)
    monkeypatch.setattr("omnitune.finetune.measure._SCORES_AT_ONCE", 40 * 4)
    parts = judge(cosine_scorer(queries.astype("f4"), pages.astype("f4")), test)
    assert parts.rank.tolist() == whole.rank.tolist()
    assert parts.metrics["map@100"].tolist() == whole.metrics["map@100"].tolist()


def test_cut_dimensions_are_scaled_back():
    pages = np.array([[3.0, 4.0, 100.0], [4.0, 3.0, 0.0]], dtype="f4")
    scores = cosine_scorer(np.array([[0.6, 0.8, 5.0]], dtype="f4"), pages, dim=2)(slice(0, 1))
    assert scores.numpy() == pytest.approx(np.array([[1.0, 0.96]]), abs=1e-6)


@pytest.mark.parametrize(("precision", "close"), [("int8", 0.01), ("uint8", 0.01), ("binary", 0.4), ("ubinary", 0.4)])
def test_quantized_pages_score_close_to_full_ones(precision, close):
    generator = np.random.default_rng(0)
    pages, queries = generator.normal(size=(50, 60)).astype("f4"), generator.normal(size=(9, 60)).astype("f4")
    full = cosine_scorer(queries, pages)(slice(0, 9))
    few = cosine_scorer(queries, pages, precision=precision)(slice(0, 9))
    assert 0 < (full - few).abs().max() < close


def test_stored_bytes():
    assert [stored_bytes(60, p) for p in ("float32", "int8", "binary")] == [240, 60, 8]


def test_contrast_resamples_clusters_and_repeats_itself():
    test = Test(queries=["q"] * 40, relevant=[[0]] * 40, rows=[0, 1], clusters=[n // 2 for n in range(40)])
    low, high = judge(scorer([[0.0, 1.0]] * 40), test), judge(scorer([[1.0, 0.0]] * 40), test)
    contrast = Resampling(resamples=500).contrast(low, high, test, label="x", dim=8, metric="ndcg@10")
    assert contrast.verdict == "better"
    assert contrast.base.value == pytest.approx(1 / np.log2(3)) and contrast.finetuned.value == 1.0
    again = Resampling(resamples=500).contrast(low, high, test, label="x", dim=8, metric="ndcg@10")
    assert again == contrast
    same = Resampling(resamples=500).contrast(low, low, test, label="x", dim=8, metric="ndcg@10")
    assert same.verdict == "no measurable difference" and same.p_value == 1.0
