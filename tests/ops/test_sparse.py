"""Similarities of sparse rows are those of the same rows made dense."""

from typing import Any

import pytest
import torch
from torch import Tensor

from omnitune.ops import similarity as sim
from omnitune.ops import sparse


def rows(count: int, seed: int) -> Tensor:
    """Rows over 40 columns, a quarter of them used; the third row is empty, the fourth one is the same every time."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(count, 40, generator=generator) * (torch.rand(count, 40, generator=generator) < 0.25)
    made[2] = 0
    made[3] = torch.arange(40) % 3
    return made


ALL_PAIRS = [sim.cos_sim, sim.dot_score, sim.euclidean_sim, sim.manhattan_sim]
PAIRWISE = [
    sim.pairwise_cos_sim,
    sim.pairwise_dot_score,
    sim.pairwise_euclidean_sim,
    sim.pairwise_manhattan_sim,
    sim.pairwise_angle_sim,
]


@pytest.mark.parametrize("function", ALL_PAIRS + PAIRWISE, ids=lambda function: function.__name__)
def test_sparse_rows_compare_as_dense_ones(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rows(7, 0), rows(7 if function in PAIRWISE else 11, 1)
    expected = function(a, b)
    monkeypatch.setattr(sparse, "_NUMBERS_AT_ONCE", 100)  # several blocks
    for first, second in ((a.to_sparse(), b.to_sparse()), (a.to_sparse(), b), (a, b.to_sparse())):
        found = function(first, second)
        assert found.layout == torch.strided
        # The square root of a distance that is nearly zero shows the rounding of the squares.
        torch.testing.assert_close(found, expected, atol=2e-3 if "euclid" in function.__name__ else 1e-5, rtol=1e-5)
    torch.testing.assert_close(function([*a.to_sparse()], [*b.to_sparse()]), found, atol=2e-3, rtol=1e-5)


def test_rows_of_compressed_form_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    a, b = rows(7, 0), rows(11, 1)
    torch.testing.assert_close(sim.dot_score(a.to_sparse(), b.to_sparse()), a @ b.T)
    torch.testing.assert_close(sim.dot_score(a, b.to_sparse()), a @ b.T)


def test_one_row() -> None:
    a = rows(7, 0)
    torch.testing.assert_close(sim.dot_score(a.to_sparse()[1], a.to_sparse()), a[1:2] @ a.T)
    torch.testing.assert_close(sim.normalize_embeddings(a.to_sparse()[1]).to_dense(), sim.normalize_embeddings(a[1]))
