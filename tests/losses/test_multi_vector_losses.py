"""Losses of late interaction by hand: what Sentence Transformers has no counterpart for, and that it is off unasked."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses import multi_vector as losses
from omnitune.ops import token_similarity
from omnitune.types import Embeddings

QUERIES = Embeddings.packed([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])])
POSITIVES = Embeddings.packed([torch.tensor([[2.0, 0.5], [1.0, 1.5]]), torch.tensor([[0.25, 1.0]])])
NEGATIVES = Embeddings.packed([torch.tensor([[1.75, 0.0]]), torch.tensor([[0.0, 0.5], [0.75, 0.25]])])
"""A query's score is the largest number in its column: of the first 2 and 0.25, of its negatives 1.75 and 0.75."""

SCORES = [[2.0, 0.25, 1.75, 0.75], [1.5, 1.0, 0.0, 0.5]]


def value(name: str, columns: list[Embeddings], labels: Tensor | None = None, **options: Any) -> float:
    return float(getattr(losses, name)(nn.Module(), **options).objective(columns, labels))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def cross_entropy(scores: list[float], own: int) -> float:
    return math.log(sum(math.exp(s) for s in scores)) - scores[own]


COLUMNS = [QUERIES, POSITIVES, NEGATIVES]
MNRL = "MultiVectorMultipleNegativesRankingLoss"


def test_the_hardest_of_the_batch() -> None:
    """The hardest of the first query is its negative (1.75), of the second the first's positive (1.5)."""
    wanted = (softplus((1.75 - 2) / 0.5) + softplus((1.5 - 1) / 0.5)) / 2
    assert value("MultiVectorPairwiseLoss", COLUMNS, temperature=0.5) == pytest.approx(wanted)
    alone = (softplus(0.25 - 2) + softplus(1.5 - 1)) / 2
    assert value("MultiVectorPairwiseLoss", COLUMNS[:2]) == pytest.approx(alone)


def test_hard_negatives_and_a_share_of_the_batch() -> None:
    name = "MultiVectorHardNegativesLoss"
    pairs = (softplus(1.75 - 2) + softplus(0.5 - 1)) / 2
    softmax = (cross_entropy(SCORES[0][:2], 0) + cross_entropy(SCORES[1][:2], 1)) / 2
    hardest = (softplus(0.25 - 2) + softplus(1.5 - 1)) / 2
    assert value(name, COLUMNS, in_batch_term_weight=0.0) == pytest.approx(pairs)
    assert value(name, COLUMNS) == pytest.approx((pairs + softmax) / 2)
    assert value(name, COLUMNS, in_batch="hardest", in_batch_term_weight=0.2) == pytest.approx(
        0.8 * pairs + 0.2 * hardest
    )
    twice = [QUERIES, POSITIVES, NEGATIVES, POSITIVES]  # a second negative that is as good as the positive
    assert value(name, twice, in_batch_term_weight=0.0) == pytest.approx((2 * pairs + 2 * softplus(0)) / 4)


def test_a_smooth_maximum_lets_every_token_learn() -> None:
    def smooth(*similarities: float) -> float:
        return 0.5 * math.log(sum(math.exp(s / 0.5) for s in similarities))

    scores = [[smooth(2, 1), 0.25], [smooth(0.5, 1.5), 1.0]]
    wanted = (cross_entropy(scores[0], 0) + cross_entropy(scores[1], 1)) / 2
    assert value(MNRL, COLUMNS[:2], smooth=0.5) == pytest.approx(wanted)
    labels = torch.tensor([[3.0, 1.0], [0.5, 2.0]])
    for name in ("MultiVectorPairwiseLoss", "MultiVectorDistillKLDivLoss", "MultiVectorMarginMSELoss"):
        learns = []
        for temperature in (None, 0.5):
            values = POSITIVES.values.clone().requires_grad_()
            loss = getattr(losses, name)(nn.Module(), smooth=temperature)
            loss.objective([QUERIES, POSITIVES.with_values(values), NEGATIVES], labels).backward()
            assert values.grad is not None
            learns.append((values.grad[:2, 0] != 0).tolist())  # of the first page's tokens, by the first query
        assert learns == [[True, False], [True, True]], name


def test_what_scores_almost_as_the_positive_is_scaled_down() -> None:
    """Of the first query 1.75 is above 0.8 x 2; of the second 1.5 is above 0.8 x 1."""
    filtered = [[2.0, 0.25, 1.75 * 0.5, 0.75], [1.5 * 0.5, 1.0, 0.0, 0.5]]
    wanted = (cross_entropy(filtered[0], 0) + cross_entropy(filtered[1], 1)) / 2
    assert value(MNRL, COLUMNS, false_negative_threshold=0.8) == pytest.approx(wanted)
    filtered[0][2], filtered[1][0] = 1.75 * 0.1, 1.5 * 0.1
    wanted = (cross_entropy(filtered[0], 0) + cross_entropy(filtered[1], 1)) / 2
    options = {"false_negative_threshold": 0.8, "false_negative_factor": 0.1, "scale": 1.0}
    assert value(MNRL, COLUMNS, **options) == pytest.approx(wanted)
    assert value(f"Cached{MNRL}", COLUMNS, **options) == pytest.approx(wanted)


def test_positives_that_look_for_their_queries() -> None:
    forth = (cross_entropy(SCORES[0], 0) + cross_entropy(SCORES[1], 1)) / 2
    back = (cross_entropy([2.0, 1.5], 0) + cross_entropy([0.25, 1.0], 1)) / 2
    assert value(MNRL, COLUMNS, symmetric=True) == pytest.approx((forth + back) / 2)
    assert value(MNRL, COLUMNS) == pytest.approx(forth)


def test_scores_between_0_and_1_in_distillation() -> None:
    """A query's scores become 1 and 0 whatever their spread, and so do the teacher's."""
    teacher = torch.tensor([[30.0, 10.0], [-1.0, 5.0]])
    name = "MultiVectorDistillKLDivLoss"
    one = 1 / (1 + math.exp(-1))
    student, taught = [[one, 1 - one], [one, 1 - one]], [[one, 1 - one], [1 - one, one]]
    wanted = sum(
        t * math.log(t / s) for ts, ss in zip(taught, student, strict=True) for t, s in zip(ts, ss, strict=True)
    )
    assert value(name, COLUMNS, teacher, normalize_scores=True) == pytest.approx(wanted / 2, abs=1e-6)
    assert value(name, COLUMNS, 7 * teacher, normalize_scores=True) == pytest.approx(wanted / 2, abs=1e-6)
    assert value(name, COLUMNS, teacher) != pytest.approx(value(name, COLUMNS, 7 * teacher))


def test_options_are_in_the_card_where_they_are_used() -> None:
    def config(name: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = getattr(losses, name)(nn.Module(), **options).get_config_dict()
        return found

    plain = config(MNRL)
    assert not {"smooth", "false_negative_threshold", "false_negative_factor", "symmetric"} & plain.keys()
    more = {"smooth": 0.1, "false_negative_threshold": 0.95, "symmetric": True}
    assert config(MNRL, **more).items() >= more.items()
    assert "normalize_scores" not in config("MultiVectorDistillKLDivLoss")
    assert config("MultiVectorDistillKLDivLoss", normalize_scores=True)["normalize_scores"] is True
    assert config("MultiVectorHardNegativesLoss")["in_batch_term_weight"] == 0.5


def test_numbers_that_cannot_be() -> None:
    refused: list[tuple[str, dict[str, Any], str]] = [
        (MNRL, {"scale": 0}, "scale: expected a positive number, got 0"),
        (MNRL, {"smooth": -1.0}, "smooth: expected a positive temperature or None, got -1.0"),
        (MNRL, {"false_negative_threshold": 0.0}, "false_negative_threshold: expected a positive share, got 0.0"),
        (
            MNRL,
            {"smooth": 0.1, "similarity_fct": token_similarity.XTRScores(4)},
            "smooth: expected None with .*, got 0.1",
        ),
        ("MultiVectorPairwiseLoss", {"temperature": 0}, "temperature: expected a positive number, got 0"),
        ("MultiVectorHardNegativesLoss", {"in_batch_term_weight": 2}, r"expected a share in \[0, 1\], got 2"),
        ("MultiVectorHardNegativesLoss", {"in_batch": "all"}, 'in_batch: expected "softmax" or "hardest", got \'all\''),
        (
            "MultiVectorDistillKLDivLoss",
            {"temperature": 0.0},
            "temperature: expected a positive finite number, got 0.0",
        ),
    ]
    for name, options, message in refused:
        with pytest.raises(InputError, match=message):
            getattr(losses, name)(nn.Module(), **options)
