"""Losses of lists by hand, and that what the mask leaves out counts for nothing."""

import math

import pytest
import torch
from torch import Tensor

from omnitune.ops import ranking

LABELS = torch.tensor([[2.0, 0.0, 1.0]])
SCORES = torch.tensor([[0.5, 1.0, -1.0]])
ALL = torch.ones(1, 3, dtype=torch.bool)


def none(gain: Tensor, discount: Tensor, labels: Tensor) -> Tensor:
    return torch.ones(())


def test_list_net() -> None:
    target = [math.exp(v) for v in (2, 0, 1)]
    given = [math.exp(v) for v in (0.5, 1.0, -1.0)]
    expected = -sum(t / sum(target) * math.log(g / sum(given)) for t, g in zip(target, given, strict=True))
    assert ranking.list_net(SCORES, LABELS, ALL).item() == pytest.approx(expected, rel=1e-6)


def test_list_mle() -> None:
    a, b, c = (math.exp(v) for v in (0.5, 1.0, -1.0))
    parts = [math.log(a / (a + b + c)), math.log(b / (b + c)), 0.0]
    assert ranking.list_mle(SCORES, ALL).item() == pytest.approx(-sum(parts), rel=1e-6)
    weighted = -(parts[0] * 3 + parts[1]) / 4
    assert ranking.position_weights(ALL).tolist() == [[3.0, 1.0, 0.0]]
    assert ranking.list_mle(SCORES, ALL, ranking.position_weights(ALL)).item() == pytest.approx(weighted, rel=1e-6)


def test_positions_of_long_lists_stay_finite() -> None:
    weights = ranking.position_weights(torch.ones(1, 400, dtype=torch.bool))
    assert weights.isfinite().all() and (weights[0, 0] / weights[0, 1]).item() == pytest.approx(2.0)


def test_ranks_and_their_error() -> None:
    labels = torch.tensor([[1.0, 3.0, 1.0, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    assert ranking.average_descending_ranks(labels, mask)[0, :3].tolist() == [2.5, 1.0, 2.5]
    scores = torch.tensor([[0.0, 1.0]])
    sigmoid = 1 / (1 + math.exp(-1))
    smooth = [1 + sigmoid, 2 - sigmoid]
    expected = sum((r - s) ** 2 / math.log2(r + 1) for r, s in zip([1.0, 2.0], smooth, strict=True)) / 2
    both = torch.ones(1, 2, dtype=torch.bool)
    assert ranking.adr_mse(scores, torch.tensor([[1.0, 0.0]]), both).item() == pytest.approx(expected, rel=1e-6)


def test_lambda_loss_without_weights_is_that_of_pairs() -> None:
    margins = [0.5 - 1.0, 0.5 + 1.0, -1.0 - 1.0]
    expected = sum(math.log(1 + math.exp(-m)) for m in margins) / 3
    assert ranking.lambda_loss(SCORES, LABELS, ALL, none, binary_log=False).item() == pytest.approx(expected, rel=1e-6)
    first = (math.log(1 + math.exp(0.5)) + math.log(1 + math.exp(2.0))) / 2  # pairs of the best scored one
    found = ranking.lambda_loss(SCORES, LABELS, ALL, none, k=1, binary_log=False)
    assert found.item() == pytest.approx(first, rel=1e-6)
    equal = torch.ones(1, 3)
    assert ranking.lambda_loss(SCORES, equal, ALL, none).item() == 0.0


@pytest.mark.parametrize("name", ["list_net", "list_mle", "adr_mse", "lambda_loss"])
def test_what_the_mask_leaves_out_counts_for_nothing(name: str) -> None:
    def loss(scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        if name == "list_mle":
            return ranking.list_mle(scores, mask, ranking.position_weights(mask))
        if name == "lambda_loss":
            return ranking.lambda_loss(scores, labels, mask, none)
        return getattr(ranking, name)(scores, labels, mask)

    narrow = SCORES.clone().requires_grad_()
    wide = torch.tensor([[0.5, 1.0, -1.0, 7.0, -3.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True, False, False]])
    labels = torch.tensor([[2.0, 0.0, 1.0, 5.0, -1.0]])
    a, b = loss(narrow, LABELS, ALL), loss(wide, labels, mask)
    assert a.item() == pytest.approx(b.item(), rel=1e-6)
    a.backward()
    b.backward()
    torch.testing.assert_close(wide.grad[:, :3], narrow.grad)
    assert torch.equal(wide.grad[:, 3:], torch.zeros(1, 2))
