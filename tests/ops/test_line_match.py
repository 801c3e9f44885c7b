"""Overlap with the best line, by hand."""

import math

import numpy as np
import pytest

from omnitune.errors import InputError
from omnitune.ops.line_match import LineMatch, listing_share

CORPUS = ["2 Objects\nIn every language data are objects", "names of objects are symbols", "", "other words"]


def idf(holders: int) -> float:
    return math.log1p((len(CORPUS) - holders + 0.5) / (holders + 0.5))


def test_score_is_shared_weight_over_mean_of_query_and_line() -> None:
    scores = LineMatch(CORPUS, recall=0.5).scores(["objects"])
    two = idf(2) / (0.5 * idf(2) + 0.5 * (idf(2) + idf(1)))
    long = idf(2) / (0.5 * idf(2) + 0.5 * (idf(2) * 2 + idf(1) * 3))
    np.testing.assert_allclose(scores, [[two, long, 0, 0]], rtol=1e-6)


def test_same_words_in_any_order_and_case_score_one() -> None:
    scores = LineMatch(CORPUS).scores(["Words OTHER", "symbols are objects of names"])
    np.testing.assert_allclose(scores[[0, 1], [3, 1]], 1, rtol=1e-6)


def test_heading_over_two_lines_is_found_whole() -> None:
    matcher = LineMatch(["How can I capture errors in a long\nsimulation?\nUse try", "a long run of errors"])
    whole, part = matcher.scores(["how can I capture errors in a long simulation"])[0]
    assert whole == pytest.approx(1)
    assert part < 0.7


def test_word_that_no_text_holds_lowers_the_score() -> None:
    known, unknown = LineMatch(CORPUS).scores(["other words", "other words xyzzy"])[:, 3]
    assert known == pytest.approx(1)
    assert 0 < unknown < known


def test_recall_alone_takes_no_notice_of_the_length_of_a_line() -> None:
    np.testing.assert_allclose(LineMatch(CORPUS, recall=1).scores(["objects"]), [[1, 1, 0, 0]])


def test_query_without_words_matches_nothing() -> None:
    assert not LineMatch(CORPUS).scores(["?!"]).any()


PROSE = "these are nine words of prose in one line"


def test_listing_share_counts_leaders_a_line_of_prose() -> None:
    shares = listing_share([f"1 A . . . . . 1\n2 B ........ 3\n{PROSE}", f"{PROSE}\nthree ... dots", ""])
    np.testing.assert_allclose(shares, [2 / 3, 0, 0], rtol=1e-6)


def test_text_with_little_prose_is_a_listing_without_leaders() -> None:
    short = "2.1.1 Vectors\n"
    shares = listing_share([short * 9, short * 39 + PROSE, short * 19 + PROSE])
    np.testing.assert_allclose(shares, [1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("corpus", "recall", "message"),
    [([], 0.5, "corpus: expected at least one text"), (["a"], 1.5, "recall: expected a weight between 0 and 1")],
)
def test_refused(corpus: list[str], recall: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LineMatch(corpus, recall=recall)
