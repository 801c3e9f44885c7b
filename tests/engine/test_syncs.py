"""What the host reads of a device makes it wait: a step reads no number of a tensor, however many mini-batches it has.

What the backbones' own code reads is not ours to change; it is left out by where it is called.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from omnitune import SentenceTransformer, losses
from omnitune.types import Column

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")
"""Operations whose result the host needs before it goes on."""


class Reads(TorchDispatchMode):
    """Counts the operations in `WAITS` that our code calls, by file."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in WAITS:
            frame = sys._getframe()
            while not any(part in frame.f_code.co_filename for part in ("/src/omnitune/", "/transformers/")):
                frame = frame.f_back  # type: ignore[assignment]
            if "/src/omnitune/" in frame.f_code.co_filename:
                self.found[f"{name} in {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"] += 1
        return function(*args, **(kwargs or {}))


def step(model: SentenceTransformer, items: Sequence[Any], memory: int | None = None) -> Counter[str]:
    cached = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    cached.strategy.activation_memory = memory
    columns = [Column(name="q", items=[f"query {i}" for i in range(len(items))]), Column(name="d", items=items)]
    with Reads() as reads:
        losses.MatryoshkaLoss(model, cached, [16, 8])(columns).backward()
    assert (cached.strategy.last_kept == 0) == (memory == 0)
    return reads.found


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_clip", "tiny_qwen3_vl"])
def test_a_step_reads_nothing(
    name: str, memory: int | None, request: pytest.FixtureRequest, page_images: list[Image.Image]
) -> None:
    model = SentenceTransformer(str(request.getfixturevalue(name)), device="cpu")
    items = [f"document {i}" for i in range(8)] if name == "tiny_bert" else page_images[:8]
    assert step(model, items, memory) == {}


def test_a_frozen_tower_is_kept_without_reading_a_number_a_row(
    tiny_qwen3_vl: Path, page_images: list[Image.Image]
) -> None:
    model = SentenceTransformer(str(tiny_qwen3_vl), device="cpu")
    model[0].model.visual.requires_grad_(False)
    model.engine.towers.keep()
    model.encode(page_images[0])  # looks for the tower
    assert step(model, page_images[1:9]) == {} and step(model, page_images[1:9]) == {}
    assert model.engine.towers.hits >= 8


def test_what_reads_is_found(tiny_bert: Path) -> None:
    """By the one loss that must read: which triplets are hard depends on the labels."""
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    loss = losses.BatchAllTripletLoss(model)
    with Reads() as reads:
        loss([Column(name="t", items=["a", "b", "c", "d"])], torch.tensor([0, 0, 1, 1]))
    assert [place.split(":")[0] for place in reads.found] == ["nonzero in batch_triplet.py"]
