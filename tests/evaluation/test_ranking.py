import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnitune.errors import InputError
from omnitune.evaluation import ranking
from omnitune.evaluation.ranking import Relevance, chunks, rank_scores, retrieve, retrieve_each, score_ranking
from omnitune.ops.similarity import dot_score


def by_sorting(scores: torch.Tensor, places: list[int], top_k: int) -> list[list[int]]:
    return [sorted(range(len(places)), key=lambda d: (-row[d].item(), places[d]))[:top_k] for row in scores]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_order_is_total_however_the_corpus_is_cut(data):
    documents = data.draw(st.integers(1, 30))
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    queries = torch.from_numpy(random.integers(-1, 2, (data.draw(st.integers(1, 6)), 3))).float()
    corpus = torch.from_numpy(random.integers(-1, 2, (documents, 3))).float()
    top_k, size, block = (data.draw(st.integers(1, 12)) for _ in range(3))
    order = torch.from_numpy(random.permutation(documents))
    hits = retrieve(queries, chunks(corpus, size), dot_score, top_k, order=order, block=block)
    assert hits.rows.tolist() == by_sorting(queries @ corpus.T, order.tolist(), top_k)
    assert hits.scores.equal((queries @ corpus.T).gather(1, hits.rows))


def test_corpus_order_is_the_default_among_equal_scores():
    hits = retrieve(torch.ones(1, 1), [torch.ones(3, 1), torch.ones(2, 1)], dot_score, 4)
    assert hits.rows.tolist() == [[0, 1, 2, 3]]


def test_similarities_share_one_pass_over_the_corpus():
    passes = iter([torch.tensor([[1.0], [2.0]])])
    hits = retrieve_each(torch.tensor([[1.0]]), passes, {"up": dot_score, "down": lambda a, b: -dot_score(a, b)}, 1)
    assert (hits["up"].rows.item(), hits["down"].rows.item()) == (1, 0)


def test_neither_side_is_compared_whole(monkeypatch):
    monkeypatch.setattr(ranking, "_SCORES_AT_ONCE", 12)
    shapes = []

    def score(a, b):
        shapes.append((len(a), len(b)))
        return dot_score(a, b)

    corpus = torch.arange(10.0).unsqueeze(1)
    hits = retrieve(torch.ones(7, 1), chunks(corpus, 4), score, 2)
    assert max(a * b for a, b in shapes) <= 12
    assert hits.rows.tolist() == [[9, 8]] * 7


def test_no_documents_and_no_queries():
    assert retrieve(torch.ones(2, 1), [], dot_score, 3).rows.shape == (2, 0)
    assert retrieve(torch.ones(0, 1), [torch.ones(2, 1)], dot_score, 3).rows.shape[0] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores(dtype):
    corpus = torch.tensor([[1.0], [3.0], [2.0]], dtype=dtype)
    hits = retrieve(torch.ones(1, 1, dtype=dtype), [corpus], lambda a, b: a @ b.T, 2)
    assert hits.rows.tolist() == [[1, 2]]


@pytest.mark.parametrize("top_k", [0, -1])
def test_no_document_a_query_is_refused(top_k: int) -> None:
    rows = torch.eye(3)
    with pytest.raises(InputError, match=f"top_k: expected at least 1, got {top_k}"):
        retrieve(rows, [rows], dot_score, top_k)
    with pytest.raises(InputError, match="top_k, max_pairs: expected at least 1"):
        ranking.nearest_pairs(rows, dot_score, top_k, 10)
    with pytest.raises(InputError, match="chunk size: expected at least 1, got 0"):
        chunks(rows, 0)


def test_scores_are_ranked_and_judged_by_query() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.8, 0.2, 0.2]])
    hits = rank_scores(scores, top_k=2)
    assert hits.rows.tolist() == [[1, 2], [0, 1]]
    assert rank_scores(scores, top_k=2, order=torch.tensor([0, 2, 1])).rows.tolist() == [[1, 2], [0, 2]]
    found = score_ranking(hits, Relevance.of([{1}, [1, 1, 2]], counts=[1, 2]), ndcg=[2], accuracy=[1], mrr=[2], map=[2])
    assert found["accuracy@1"].tolist() == [1.0, 0.0] and found["mrr@2"].tolist() == [1.0, 0.5]
    discount = 1 / np.log2(3)
    assert found["ndcg@2"].tolist() == pytest.approx([1.0, discount / (1 + discount)])
    assert found["map@2"].tolist() == pytest.approx([1.0, 0.25])
