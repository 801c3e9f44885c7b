"""Hard negatives by the rules: hand-worked candidates."""

import random

import pytest
import torch

from omnitune.data.hard_negatives import Candidates, Mined, Pairs, Rules, arranged
from omnitune.errors import InputError

NONE = -torch.inf
DOCUMENTS = torch.tensor([[0, 1, 2, 3, 4], [3, 4, 0, 1, -1]])
SCORES = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5], [0.9, 0.4, 0.3, -0.2, 0.0]])
POSITIVES = Pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 2, 3]))
POSITIVE_SCORES = torch.tensor([0.9, 0.7, 0.9])


def taken(rules: Rules, reach: int = 5, **refused: Pairs) -> tuple[list[list[int]], dict[str, int]]:
    candidates = Candidates(DOCUMENTS, SCORES)
    candidates.refuse("positive", POSITIVES.among(DOCUMENTS))
    for reason, pairs in refused.items():
        candidates.refuse(reason, pairs.among(DOCUMENTS))
    candidates.compare(rules, POSITIVES, POSITIVE_SCORES)
    documents, scores = candidates.take(rules, reach)
    assert ((documents < 0) == (scores == NONE)).all()
    return documents.tolist(), dict(candidates.dropped)


def test_positives_are_never_negatives():
    found, dropped = taken(Rules(num_negatives=2))
    assert found == [[1, 3], [4, 0]]
    assert dropped == {"positive": 3}


def test_the_range_counts_what_the_rules_left():
    assert taken(Rules(num_negatives=1, range_min=1, range_max=2), reach=2)[0] == [[3], [0]]
    assert taken(Rules(num_negatives=2, range_min=2, range_max=4), reach=4)[0] == [[4, -1], [1, -1]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"relative_margin": 0.1}, [[3, 4], [4, 0]]),  # below 0.63 = 0.9 * 0.7, the lowest positive's; 0.81
        ({"absolute_margin": 0.15}, [[4, -1], [4, 0]]),
        ({"max_score": 0.35}, [[-1, -1], [0, 1]]),
        ({"min_score": 0.35}, [[1, 3], [4, -1]]),
    ],
)
def test_score_rules(rule, expected):
    found, dropped = taken(Rules(num_negatives=2, **rule))
    assert found == expected
    assert dropped[next(iter(rule))] > 0


def test_a_relative_margin_lowers_a_negative_score_too():
    candidates = Candidates(torch.tensor([[5, 6]]), torch.tensor([[-1.05, -1.2]]))
    positives = Pairs(torch.tensor([0]), torch.tensor([9]))
    candidates.compare(Rules(relative_margin=0.1), positives, torch.tensor([-1.0]))
    assert candidates.scores[0].tolist() == [NONE, pytest.approx(-1.2)]


def test_pairs_can_be_excluded_and_are_counted_by_reason():
    pairs = Pairs(torch.tensor([0, 1]), torch.tensor([1, 77]))
    found, dropped = taken(Rules(num_negatives=2), neighbour=pairs)
    assert found == [[3, 4], [4, 0]]
    assert dropped["neighbour"] == 1


def test_no_pairs_exclude_nothing():
    none = Pairs(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
    assert not none.among(DOCUMENTS).any() and none.most() == 0


def test_drawing_is_repeatable_and_takes_what_is_allowed():
    rules = Rules(num_negatives=2, sampling_strategy="random")
    draws = set()
    for seed in range(20):
        random.seed(seed)
        found = taken(rules)[0]
        random.seed(seed)
        assert taken(rules)[0] == found
        assert set(found[0]) < {1, 3, 4} and set(found[1]) < {4, 0, 1}
        assert found[0] == sorted(found[0])  # best first
        draws.add(tuple(found[0]))
    assert draws == {(1, 3), (1, 4), (3, 4)}


def test_drawing_takes_all_where_too_few_are_left():
    found, _ = taken(Rules(num_negatives=3, sampling_strategy="random", max_score=0.55))
    assert found[0] == [4, -1, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_negatives": 0}, "num_negatives: expected at least 1, got 0"),
        ({"range_min": -1}, "range_min: expected at least 0, got -1"),
        ({"range_min": 3, "range_max": 5}, "range_max: expected at least range_min . num_negatives = 6, got 5"),
        ({"sampling_strategy": "best"}, "sampling_strategy: expected 'top' or 'random', got 'best'"),
    ],
)
def test_impossible_rules(arguments, message):
    with pytest.raises(InputError, match=message):
        Rules(**arguments)


MINED = Mined(
    positives=POSITIVES,
    positive_scores=POSITIVE_SCORES,
    documents=torch.tensor([[1, 3], [4, -1]]),
    scores=torch.tensor([[0.8, 0.6], [0.4, NONE]]),
)


def rows(form: str, *, scores: bool = False):
    table = arranged(MINED, "page", form, scores=scores)
    return table.queries, dict(table.documents), table.values


def test_triplets():
    queries, documents, values = rows("triplet", scores=True)
    assert queries == [0, 0, 0, 0, 1]
    assert documents == {"page": [0, 0, 2, 2, 3], "negative": [1, 3, 1, 3, 4]}
    assert values[0] == "scores" and values[1][3] == pytest.approx([0.7, 0.6])
    assert rows("triplet")[2] is None


def test_tuples_need_all_their_negatives():
    queries, documents, values = rows("n-tuple", scores=True)
    assert queries == [0, 0]
    assert documents == {"page": [0, 2], "negative_1": [1, 1], "negative_2": [3, 3]}
    assert values[1][1] == pytest.approx([0.7, 0.8, 0.6])


def test_labeled_pairs():
    queries, documents, values = rows("labeled-pair")
    assert queries == [0, 0, 0, 0, 1, 1]
    assert documents == {"page": [0, 2, 1, 3, 3, 4]}
    assert values == ("label", [1, 1, 0, 0, 1, 0])
    assert rows("labeled-pair", scores=True)[2][1] == pytest.approx([0.9, 0.7, 0.8, 0.6, 0.9, 0.4])


def test_labeled_lists():
    queries, documents, values = rows("labeled-list")
    assert queries == [0, 0, 1]
    assert documents == {"page": [[0, 1, 3], [2, 1, 3], [3, 4]]}
    assert values == ("labels", [[1, 0, 0], [1, 0, 0], [1, 0]])


def test_an_unknown_form():
    with pytest.raises(InputError, match="output_format: expected one of 'triplet', .*, got 'pairs'"):
        rows("pairs")
