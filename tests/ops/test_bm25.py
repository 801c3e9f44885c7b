import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnitune.errors import InputError
from omnitune.ops.bm25 import BM25, words

CORPUS = ["the cat sat", "the dog sat on the mat", "a bird"]


def naive(corpus: list[str], query: str, row: int, k1: float = 1.2, b: float = 0.75) -> float:
    texts = [words(text) for text in corpus]
    mean = sum(map(len, texts)) / len(texts)
    score = 0.0
    for word in words(query):
        holders = sum(word in text for text in texts)
        if not holders:
            continue
        frequency = texts[row].count(word)
        idf = math.log(1 + (len(texts) - holders + 0.5) / (holders + 0.5))
        score += idf * frequency / (frequency + k1 * (1 - b + b * len(texts[row]) / mean)) if frequency else 0.0
    return score


def test_one_score_by_hand():
    # 3 texts of 3, 6 and 2 words; "cat" is in one of them, once.
    expected = math.log(1 + 2.5 / 1.5) * 1 / (1 + 1.2 * (0.25 + 0.75 * 3 / (11 / 3)))
    assert BM25(CORPUS).scores(["cat"]).tolist() == [[pytest.approx(expected), 0.0, 0.0]]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefg"), max_size=8).map(" ".join), min_size=1, max_size=6),
    st.lists(st.lists(st.sampled_from("abcxyz"), max_size=4).map(" ".join), min_size=1, max_size=3),
)
def test_agrees_with_loops(corpus, queries):
    expected = [[naive(corpus, query, row) for row in range(len(corpus))] for query in queries]
    np.testing.assert_allclose(BM25(corpus).scores(queries), expected, rtol=1e-5, atol=1e-6)


def test_repeated_query_words_count_again():
    index = BM25(CORPUS)
    np.testing.assert_allclose(index.scores(["sat sat"]), 2 * index.scores(["sat"]), rtol=1e-6)


def test_top_k_leaves_out_texts_without_a_shared_word():
    scores, rows = BM25(CORPUS).top_k(["sat", "unknown"], 5)
    assert rows.tolist() == [[0, 1, -1], [-1, -1, -1]]
    assert scores[1].tolist() == [0.0, 0.0, 0.0]
    assert scores[0, 0] > scores[0, 1] > 0


def test_top_k_keeps_corpus_order_among_equal_scores_and_does_not_depend_on_blocks(monkeypatch):
    index = BM25(["x y", "x y", "x z", "x y"])
    expected = index.top_k(["x", "y", "z"], 3)
    assert expected[1].tolist() == [[0, 1, 2], [0, 1, 3], [2, -1, -1]]
    monkeypatch.setattr("omnitune.ops.bm25._SCORES_AT_ONCE", 4)
    assert all(a.equal(b) for a, b in zip(index.top_k(["x", "y", "z"], 3), expected, strict=True))
    assert index.top_k([], 3)[1].shape == (0, 3)


def test_words_are_lower_case_and_normalised():
    assert words("Ｆｕｌｌ-width Größe, x_1 naïve") == ["full", "width", "größe", "x_1", "naïve"]


def test_an_empty_corpus_is_an_error_and_empty_texts_are_not():
    with pytest.raises(InputError, match="corpus: expected at least one text"):
        BM25([])
    assert BM25(["", ""]).scores(["a"]).tolist() == [[0.0, 0.0]]


def test_another_tokenizer():
    index = BM25(["ab", "bc"], tokenize=list)
    assert index.scores(["a"])[0].tolist()[1] == 0.0
    assert Counter(index.vocabulary) == Counter(a=0, b=1, c=2)
