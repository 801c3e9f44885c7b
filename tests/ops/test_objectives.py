from math import e, exp, log

import pytest
import torch
from torch import Tensor

from omnitune.errors import ShapeError
from omnitune.ops.objectives import (
    cosent,
    hardness_penalty,
    info_nce,
    margin_mse,
    multiple_negatives,
    triplet_margin,
)


def close(value: Tensor, expected: float) -> None:
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_info_nce_by_hand():
    scores = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    close(info_nce(scores, torch.tensor([0, 1]), scale=1.0), (log(1 + 1 / e) + log(2)) / 2)
    close(info_nce(scores, torch.tensor([0, 1]), scale=2.0), (log(1 + exp(-2)) + log(2)) / 2)


def test_info_nce_wants_one_positive_a_query():
    with pytest.raises(ShapeError, match=r"positives: expected one column per query, \(2,\), got \(3,\)"):
        info_nce(torch.zeros(2, 4), torch.tensor([0, 1, 2]))


SCORES = {
    "query_to_doc": torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]),  # 2 positives, 2 hard negatives
    "query_to_query": torch.tensor([[1.0, 0.2], [0.2, 1.0]]),
    "doc_to_query": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    "doc_to_doc": torch.tensor([[1.0, 0.3, 0.9, 0.4], [0.3, 1.0, 0.1, 0.8]]),
}
OWN = torch.tensor([0, 1])


def test_multiple_negatives_joint_by_hand():
    # Own query, own positive and own hard negative are no candidates of the same side.
    first = log(e + 1 + exp(0.5) + 1 + exp(0.2) + e + 1 + exp(0.3) + exp(0.4)) - 1
    second = log(1 + e + 1 + 1 + exp(0.2) + 1 + e + exp(0.3) + exp(0.1)) - 1
    close(multiple_negatives(SCORES, OWN, rows=2, scale=1.0), (first + second) / 2)


def test_multiple_negatives_per_direction_by_hand():
    two = {d: SCORES[d] for d in ("query_to_doc", "doc_to_query")}
    forward = (log(e + 2 + exp(0.5)) - 1 + log(e + 3) - 1) / 2
    backward = log(e + 1) - 1
    close(multiple_negatives(two, OWN, rows=2, scale=1.0, partition_mode="per_direction"), (forward + backward) / 2)


@pytest.mark.parametrize(
    ("mode", "chosen"),
    [
        ("in_batch_negatives", [[0, 1, 0, 1], [1, 0, 1, 0]]),
        ("hard_negatives", [[0, 0, 1, 0], [0, 0, 0, 1]]),
        ("all_negatives", [[0, 1, 1, 1], [1, 0, 1, 1]]),
    ],
)
def test_hardness_by_hand(mode, chosen):
    scores = torch.arange(1.0, 9.0).reshape(2, 4).requires_grad_()
    penalty = hardness_penalty(scores, OWN, 2, mode)
    assert torch.equal(penalty, scores.detach() * torch.tensor(chosen))
    assert not penalty.requires_grad


def test_hardness_is_added_after_the_scale():
    alone = {"query_to_doc": SCORES["query_to_doc"]}
    first = log(exp(2.0) + 1 + exp(0.5 * 2 + 0.5 * 3) + 1) - 2
    second = log(1 + exp(2.0) + 1 + 1) - 2
    value = multiple_negatives(alone, OWN, rows=2, scale=2.0, hardness=("hard_negatives", 3.0))
    close(value, (first + second) / 2)


def test_queries_of_one_rank_among_all_rows():
    whole = multiple_negatives(SCORES, OWN, rows=2)
    parts = [multiple_negatives({d: s[i : i + 1] for d, s in SCORES.items()}, OWN[i : i + 1], rows=2) for i in (0, 1)]
    close(sum(parts) / 2, whole.item())


def test_cosent_by_hand():
    scores, labels = torch.tensor([0.2, 0.8, 0.5]), torch.tensor([1.0, 0.0, 0.5])
    expected = log(1 + exp(0.6) + exp(0.3) + exp(0.3))
    for given in (labels, -1000 * (1 - labels), (labels * 2).long(), (labels * 2).to(torch.uint8)):
        close(cosent(scores, given, scale=1.0), expected)


def test_cosent_ignores_ties():
    close(cosent(torch.tensor([0.9, 0.1]), torch.tensor([True, True])), 0.0)
    close(cosent(torch.tensor([0.1, 0.9, 0.9]), torch.tensor([True, False, False]), 1.0), log(1 + 2 * exp(0.8)))


def test_cosent_equals_all_pairs():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, generator=generator)
    labels = torch.randint(0, 5, (40,), generator=generator).float()
    wrong = (scores[None, :] - scores[:, None])[labels[:, None] > labels[None, :]] * 20
    close(cosent(scores, labels), torch.cat([torch.zeros(1), wrong]).logsumexp(0).item())


def test_cosent_of_large_scores_and_half_precision():
    close(cosent(torch.tensor([100.0, -100.0]), torch.tensor([0, 1])), 4000.0)
    half = cosent(torch.tensor([0.3, 0.2], dtype=torch.bfloat16), torch.tensor([0.0, 1.0]))
    assert half.dtype == torch.float32
    close(half, log(1 + exp(20 * (0.30078125 - 0.2001953125))))


def test_cosent_labels():
    with pytest.raises(ShapeError, match=r"labels: expected one per pair, \(2,\), got \(3,\)"):
        cosent(torch.zeros(2), torch.zeros(3))


def test_triplet_by_hand():
    close(triplet_margin(torch.tensor([1.0, 3.0]), torch.tensor([4.0, 1.0]), 2.0), (0 + 4) / 2)


def test_margin_mse_by_hand():
    value = margin_mse(torch.tensor([5.0]), torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 3.0]]))
    close(value, ((4 - 3) ** 2 + (1 - 3) ** 2) / 2)


def test_margin_mse_shapes():
    with pytest.raises(ShapeError, match=r"margins: expected \(2, 3\), got \(2, 1\)"):
        margin_mse(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 1))


def test_gradients():
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(2, n, generator=generator, dtype=torch.float64).requires_grad_() for n in (4, 2, 2, 4)]

    def joint(*scores: Tensor) -> Tensor:
        return multiple_negatives(dict(zip(SCORES, scores, strict=True)), OWN, rows=2, scale=2.0)

    assert torch.autograd.gradcheck(joint, inputs)
    scores = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0.1, 0.9, 0.9, 0.3, 0.3, 0.5])
    assert torch.autograd.gradcheck(lambda s: cosent(s, labels, 2.0), scores)
