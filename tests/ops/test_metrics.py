import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnitune.errors import ShapeError
from omnitune.ops.metrics import (
    average_precision_at,
    average_ranks,
    mark_relevant,
    ndcg_at,
    pearson,
    ranking_metrics,
    reciprocal_rank_at,
    retrieval_metrics,
    spearman,
)


def test_mark_relevant_finds_pairs_of_their_own_query_only():
    ranked = torch.tensor([[3, 1, 0], [1, 3, -1]])
    found = mark_relevant(ranked, torch.tensor([0, 0, 1]), torch.tensor([0, 3, 1]))
    assert found.tolist() == [[True, False, True], [True, False, False]]


def test_mark_relevant_with_no_known_pair_and_missing_places():
    ranked = torch.tensor([[-1, -1]])
    assert not mark_relevant(ranked, torch.zeros(0).long(), torch.zeros(0).long()).any()
    assert mark_relevant(torch.tensor([[-1], [0]]), torch.tensor([0, 1]), torch.tensor([1, 0])).tolist() == [
        [False],
        [True],
    ]


def test_mark_relevant_rejects_unequal_pairs():
    with pytest.raises(ShapeError, match="expected one document for each of 2 relevant queries, got 1"):
        mark_relevant(torch.tensor([[0]]), torch.tensor([0, 0]), torch.tensor([0]))


def test_ndcg_by_hand():
    # Ranks 1 and 3 of 3 relevant: (1 + 1/2) / (1 + 1/log2(3) + 1/2).
    relevance = torch.tensor([[True, False, True, False]])
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert ndcg_at(relevance, torch.tensor([3]), 4).item() == pytest.approx(1.5 / ideal)
    # The ideal at 2 holds two documents only.
    assert ndcg_at(relevance, torch.tensor([3]), 2).item() == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_average_precision_and_reciprocal_rank_by_hand():
    relevance = torch.tensor([[False, True, False, True]])
    assert average_precision_at(relevance, torch.tensor([5]), 4).item() == pytest.approx((1 / 2 + 2 / 4) / 4)
    assert average_precision_at(relevance, torch.tensor([2]), 4).item() == pytest.approx(0.5)
    assert reciprocal_rank_at(relevance, 4).item() == 0.5
    assert reciprocal_rank_at(relevance, 1).item() == 0.0


def test_cut_offs_beyond_the_ranking_count_missing_places_as_wrong():
    metrics = retrieval_metrics(torch.tensor([[True]]), torch.tensor([1]), accuracy=[5], precision_recall=[5])
    assert metrics["precision@5"].item() == pytest.approx(0.2)
    assert metrics["recall@5"].item() == metrics["accuracy@5"].item() == metrics["ndcg@10"].item() == 1.0


def test_relevant_counts_must_match_the_queries():
    with pytest.raises(ShapeError, match=r"relevant: expected one number for each of 2 queries, got shape \(1,\)"):
        retrieval_metrics(torch.zeros(2, 3).bool(), torch.tensor([1]))


def naive(ranking: list[bool], relevant: int, k: int) -> dict[str, float]:
    head = ranking[:k]
    hits = sum(head)
    first = next((rank for rank, hit in enumerate(head, 1) if hit), None)
    gained = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(head, 1) if hit)
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(relevant, k) + 1))
    precisions = [sum(head[:rank]) / rank for rank, hit in enumerate(head, 1) if hit]
    return {
        f"accuracy@{k}": float(hits > 0),
        f"precision@{k}": hits / k,
        f"recall@{k}": hits / relevant,
        f"ndcg@{k}": gained / best,
        f"mrr@{k}": 1 / first if first else 0.0,
        f"map@{k}": sum(precisions) / min(k, relevant),
    }


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_agrees_with_loops(data):
    width = data.draw(st.integers(1, 12))
    rows = data.draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=5))
    relevant = [max(1, sum(row)) + data.draw(st.integers(0, 4)) for row in rows]
    k = data.draw(st.integers(1, 15))
    cuts = {name: [k] for name in ("accuracy", "precision_recall", "ndcg", "mrr", "map")}
    metrics = retrieval_metrics(torch.tensor(rows), torch.tensor(relevant), **cuts)
    for number, (row, count) in enumerate(zip(rows, relevant, strict=True)):
        expected = naive(row, count, k)
        assert {name: values[number].item() for name, values in metrics.items()} == pytest.approx(expected, abs=1e-12)


def test_average_ranks_share_ties():
    assert average_ranks(torch.tensor([10.0, 20.0, 10.0, 30.0, 20.0, 20.0])).tolist() == [1.5, 4.0, 1.5, 6.0, 4.0, 4.0]


def test_correlations_by_hand():
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 5.0])
    assert pearson(x, y) == pytest.approx(math.sqrt(3) / 2)
    assert spearman(x, y) == pytest.approx(math.sqrt(3) / 2)
    assert spearman(x, torch.tensor([1.0, 10.0, 1000.0])) == pytest.approx(1.0)
    assert pearson(x, -x) == pytest.approx(-1.0)


def test_a_constant_has_no_correlation():
    assert math.isnan(pearson(torch.ones(3), torch.arange(3)))
    assert math.isnan(spearman(torch.arange(3), torch.ones(3)))


@pytest.mark.parity
def test_correlations_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 6, (200,), generator=generator).float()
    y = x + torch.randn(200, generator=generator)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x.double().numpy(), y.double().numpy())[0], abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x.numpy(), y.numpy())[0], abs=1e-12)


def test_ranking_metrics_by_hand():
    # Query 1: relevant at ranks 1 and 3 of 3; query 2: one relevant of two equal scores; query 3: nothing relevant.
    scores = torch.tensor([0.9, 0.5, 0.1, 0.3, 0.3, 0.7])
    relevant = torch.tensor([True, False, True, False, True, False])
    found = ranking_metrics(scores, relevant, torch.tensor([3, 2, 1]), 2)
    assert found["map"].tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 2, 0])
    assert found["mrr@2"].tolist() == pytest.approx([1, 1 / 2, 0])
    second = 1 / math.log2(3)
    assert found["ndcg@2"].tolist() == pytest.approx([1 / (1 + second), (1 + second) / 2, 0])


def test_ranking_metrics_want_one_mark_per_score():
    with pytest.raises(ShapeError, match="expected one mark for each of 3 scores"):
        ranking_metrics(torch.rand(3), torch.ones(3).bool(), torch.tensor([2]), 10)


@pytest.mark.parity
@pytest.mark.parametrize("k", [1, 3, 10])
def test_ranking_metrics_equal_those_of_scikit_learn(k: int):
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(k)
    lengths = torch.randint(2, 12, (40,), generator=generator)
    scores = torch.rand(int(lengths.sum()), generator=generator).round(decimals=1)
    relevant = torch.rand(len(scores), generator=generator) < 0.4
    found = ranking_metrics(scores, relevant, lengths, k)
    parts = zip(scores.split(lengths.tolist()), relevant.split(lengths.tolist()), strict=True)
    for row, (score, mark) in enumerate(parts):
        if mark.any():
            assert found["map"][row].item() == pytest.approx(sklearn.average_precision_score(mark, score))
            assert found[f"ndcg@{k}"][row].item() == pytest.approx(sklearn.ndcg_score([mark.int()], [score], k=k))
