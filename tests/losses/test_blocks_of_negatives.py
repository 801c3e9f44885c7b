"""The in-batch losses, cut into blocks of queries, give the loss and gradients of one block."""

from typing import Any

import pytest
import torch

from omnitune.losses import MultipleNegativesRankingLoss
from omnitune.ops import objectives
from omnitune.ops.similarity import cos_sim, dot_score, euclidean_sim
from omnitune.types import Embeddings

ALL = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SYMMETRIC = ("query_to_doc", "doc_to_query")


def value(loss: MultipleNegativesRankingLoss, nested: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)
    columns = [torch.randn(11, 8, requires_grad=True) for _ in range(3)]
    embeddings = [Embeddings(column) for column in columns]
    found: Any = sum(loss.objective_at(embeddings, None, [8, 4])) if nested else loss.objective(embeddings, None)
    return found.detach(), list(torch.autograd.grad(found, columns))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"directions": ALL},
        {"directions": SYMMETRIC, "partition_mode": "per_direction"},
        {"hardness_mode": "all_negatives", "hardness_strength": 2.0},
        {"similarity_fct": dot_score, "scale": 1.0, "directions": SYMMETRIC},
        {"similarity_fct": euclidean_sim},
    ],
)
def test_blocks_of_queries(options: dict[str, Any], nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = MultipleNegativesRankingLoss(torch.nn.Identity(), **options)
    expected, gradients = value(loss, nested)
    monkeypatch.setattr(objectives, "SCORES_AT_ONCE", 4 * 22)
    found, again = value(loss, nested)
    assert torch.allclose(found, expected, rtol=1e-6)
    for a, b in zip(again, gradients, strict=True):
        assert torch.allclose(a, b, atol=2e-6)


def test_half_precision_is_compared_in_single(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = [Embeddings(torch.randn(6, 8).bfloat16()) for _ in range(2)]
    loss = MultipleNegativesRankingLoss(torch.nn.Identity())
    scores = cos_sim(embeddings[0].values, embeddings[1].values) * 20
    found = loss.objective(embeddings, None)
    assert torch.equal(found, torch.nn.functional.cross_entropy(scores, torch.arange(6)))  # type: ignore[arg-type]
