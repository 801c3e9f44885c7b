"""Block by block or at once: the same mean and the same gradients."""

import pytest
import torch

from omnitune.ops import objectives


@pytest.mark.parametrize(("scores_at_once", "calls"), [(1 << 24, 1), (20, 3), (1, 7)])
def test_blocks_change_nothing(scores_at_once: int, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "SCORES_AT_ONCE", scores_at_once)
    rows = torch.randn(7, 3, requires_grad=True)
    others = torch.randn(6, 3, requires_grad=True)
    seen: list[tuple[int, int]] = []

    def mean_of(start: int, stop: int) -> torch.Tensor:
        seen.append((start, stop))
        scores = rows[start:stop] @ others.T
        return torch.stack([scores.logsumexp(dim=1).mean(), scores.square().mean()])

    found = objectives.mean_in_blocks(mean_of, 7, 6)
    assert len(seen) == calls and seen[-1][1] == 7
    given = torch.tensor([1.0, 3.0])
    gradients = torch.autograd.grad(found @ given, [rows, others])
    # A block is computed again in backward, and what fits at once is not.
    assert len(seen) == (calls if calls == 1 else 2 * calls)
    expected = mean_of(0, 7)
    assert torch.allclose(found, expected, atol=1e-6)
    for a, b in zip(gradients, torch.autograd.grad(expected @ given, [rows, others]), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
