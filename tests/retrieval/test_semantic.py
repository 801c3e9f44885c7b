import inspect
from typing import Any

import numpy as np
import pytest
import torch

from omnitune import util
from omnitune.errors import InputError
from omnitune.search import semantic_search
from omnitune.util import cos_sim, dot_score, euclidean_sim


@pytest.fixture(scope="module")
def embeddings():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 6, generator=generator), torch.randn(40, 6, generator=generator)


def test_one_query_by_hand():
    hits = semantic_search(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]), top_k=2)
    assert [hit["corpus_id"] for hit in hits[0]] == [1, 2]
    assert hits[0][0]["score"] == pytest.approx(1.0)


def test_chunks_do_not_matter(embeddings):
    whole = semantic_search(*embeddings, top_k=5)
    cut = semantic_search(*embeddings, top_k=5, query_chunk_size=5, corpus_chunk_size=7)
    assert [[hit["corpus_id"] for hit in hits] for hits in whole] == [
        [hit["corpus_id"] for hit in hits] for hits in cut
    ]


@pytest.mark.parity
@pytest.mark.parametrize("score", [cos_sim, dot_score, euclidean_sim])
def test_agrees_with_st(embeddings, score):
    theirs = pytest.importorskip("sentence_transformers.util")
    options = {"query_chunk_size": 5, "corpus_chunk_size": 9, "top_k": 4}
    given = [embeddings, tuple(e.numpy() for e in embeddings), tuple(list(e) for e in embeddings)]
    for queries, corpus in given:
        ours = semantic_search(queries, corpus, score_function=score, **options)
        expected = theirs.semantic_search(queries, corpus, score_function=getattr(theirs, score.__name__), **options)
        for mine, other in zip(ours, expected, strict=True):
            assert [hit["corpus_id"] for hit in mine] == [hit["corpus_id"] for hit in other]
            np.testing.assert_allclose([h["score"] for h in mine], [h["score"] for h in other], rtol=1e-5)


def test_every_name_of_util_exists():
    for name in util.__all__:
        assert callable(getattr(util, name)), name
    assert util.pytorch_cos_sim is util.cos_sim
    assert dir(util) == util.__all__
    with pytest.raises(AttributeError, match="module 'omnitune.util' has no attribute 'nonsense'"):
        util.nonsense  # noqa: B018


@pytest.mark.parity
def test_signatures_of_util():
    theirs = pytest.importorskip("sentence_transformers.util")
    for name in util.__all__:
        if name in ("SimilarityFunction", "information_retrieval"):  # the second takes anything there
            continue
        mine, other = (inspect.signature(getattr(package, name)).parameters for package in (util, theirs))
        assert list(mine) == list(other), name
        for key, parameter in mine.items():
            assert callable(parameter.default) or parameter.default == other[key].default, (name, key)


def test_pairs_by_hand():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.05]])
    found = util.paraphrase_mining_embeddings(rows, max_pairs=3)
    assert [pair[1:] for pair in found] == [[1, 3], [0, 3], [0, 1]]
    assert found[0][0] == pytest.approx(float(cos_sim(rows[1], rows[3])))
    assert [pair[1:] for pair in util.paraphrase_mining_embeddings(rows, top_k=1)] == [[1, 3], [0, 3], [1, 2]]


def test_pairs_of_items(compass):
    found = util.paraphrase_mining(compass, ["0", "80", "5", "90"], top_k=2)
    assert [pair[1:] for pair in found][:2] == [[0, 2], [1, 3]]


@pytest.mark.parity
@pytest.mark.parametrize("score", [cos_sim, dot_score, euclidean_sim])
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"max_pairs": 17}, {"query_chunk_size": 7, "corpus_chunk_size": 9, "top_k": 5}]
)
def test_pairs_agree_with_st(embeddings, score, options):
    theirs = pytest.importorskip("sentence_transformers.util")
    corpus = embeddings[1]
    ours = util.paraphrase_mining_embeddings(corpus, score_function=score, **options)
    expected = theirs.paraphrase_mining_embeddings(corpus, score_function=getattr(theirs, score.__name__), **options)
    assert [pair[1:] for pair in ours] == [pair[1:] for pair in expected]
    assert [pair[0] for pair in ours] == pytest.approx([pair[0] for pair in expected], abs=1e-5)


@pytest.fixture(scope="module")
def groups():
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(6, 8, generator=generator)
    sizes = torch.tensor([30, 20, 15, 8, 4, 2])
    spread = 0.3 * torch.randn(int(sizes.sum()), 8, generator=generator)
    rows = centres.repeat_interleave(sizes, dim=0) + spread
    return rows[torch.randperm(len(rows), generator=generator)]


def test_communities_by_hand():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.05, 1.0], [1.0, 0.2]])
    assert util.community_detection(rows, threshold=0.9, min_community_size=2) == [[0, 2, 4], [1, 3]]
    assert util.community_detection(rows, threshold=0.9, min_community_size=4) == []
    assert util.community_detection(rows[:0]) == []


@pytest.mark.parity
@pytest.mark.parametrize("threshold", [0.6, 0.75, 0.9])
@pytest.mark.parametrize("smallest", [1, 3, 10])
@pytest.mark.parametrize("batch_size", [1024, 13])
def test_communities_agree_with_st(groups, threshold, smallest, batch_size):
    theirs = pytest.importorskip("sentence_transformers.util")
    options = {"threshold": threshold, "min_community_size": smallest, "batch_size": batch_size}
    ours = util.community_detection(groups, **options)
    assert ours == theirs.community_detection(groups, **options)
    assert util.community_detection(groups.numpy(), **options) == ours


def test_no_documents_are_wanted():
    assert semantic_search(torch.eye(3), torch.eye(3), top_k=0) == [[], [], []]
    with pytest.raises(InputError, match="top_k: expected a number of documents, got -1"):
        semantic_search(torch.eye(3), torch.eye(3), top_k=-1)


@pytest.mark.parametrize("score", [cos_sim, dot_score, euclidean_sim], ids=lambda score: score.__name__)
def test_sparse_embeddings_find_what_dense_ones_find(score: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(60, 50, generator=generator) * (torch.rand(60, 50, generator=generator) < 0.2)
    queries, corpus = draw[:9], draw[9:]
    expected = semantic_search(queries, corpus, top_k=7, score_function=score)
    for some, all_ in (
        (queries.to_sparse(), corpus.to_sparse()),
        (queries, corpus.to_sparse()),
        (queries.to_sparse(), corpus),
    ):
        found = semantic_search(some, all_, 4, 20, top_k=7, score_function=score)
        for mine, theirs in zip(found, expected, strict=True):
            assert [hit["corpus_id"] for hit in mine] == [hit["corpus_id"] for hit in theirs]
            assert [hit["score"] for hit in mine] == pytest.approx([hit["score"] for hit in theirs], abs=1e-4)
    assert semantic_search(queries.to_sparse()[3], corpus.to_sparse(), top_k=2, score_function=score)[0] == found[3][:2]
