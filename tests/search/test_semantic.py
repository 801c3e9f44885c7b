import inspect

import numpy as np
import pytest
import torch

from omnitune import util
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
        if name == "SimilarityFunction":
            continue
        mine, other = (inspect.signature(getattr(package, name)).parameters for package in (util, theirs))
        assert list(mine) == list(other), name
        for key, parameter in mine.items():
            assert callable(parameter.default) or parameter.default == other[key].default, (name, key)
