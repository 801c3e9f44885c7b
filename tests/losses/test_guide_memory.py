"""What a guide's cache keeps is bounded, and what it gives is the same."""

from pathlib import Path

import pytest
import torch

from omnitune import SentenceTransformer, losses
from omnitune.losses import guided
from omnitune.types import Column


def batch(start: int) -> list[Column]:
    names = ("anchor", "positive")
    return [Column(name=n, items=[f"{n} {i}" for i in range(start, start + 4)]) for n in names]


def test_the_oldest_embeddings_go_first(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, guide = (SentenceTransformer(str(tiny_bert), device="cpu").eval() for _ in range(2))
    monkeypatch.setattr(guided, "GUIDE_BYTES", 12 * 32 * 4)  # twelve embeddings; a batch has eight
    kept = losses.GISTEmbedLoss(model, guide, cache_guide=True)
    plain = losses.GISTEmbedLoss(model, guide)
    for start in (0, 4, 0, 8, 8):
        torch.testing.assert_close(kept(batch(start)), plain(batch(start)))
        assert len(kept._known) <= 12
    newest = {key[-1] for key in kept._known}
    assert {f"positive {i}" for i in range(8, 12)} <= newest and "anchor 4" not in newest
    assert all(row.untyped_storage().nbytes() == 32 * 4 for row in kept._known.values())
