"""bfloat16 where the machine has it, float32 with a warning where it has not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from omnitune import CrossEncoder, SentenceTransformer, runtime


@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder])
@pytest.mark.parametrize("has", [True, False])
def test_auto_bf16_is_what_the_device_has(
    kind: type, has: bool, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "computes_bfloat16", lambda device: has and device == "cpu")
    model = kind(str(tiny_bert), device="cpu", model_kwargs={"dtype": "auto-bf16"})
    assert model.dtype == (torch.bfloat16 if has else torch.float32)
    assert ("dtype: 'auto-bf16' is float32 here, because cpu has no bfloat16 products" in caplog.text) == (not has)


def test_embeddings_are_near_those_of_float32(tiny_bert: Path, texts: list[str]) -> None:
    full = SentenceTransformer(str(tiny_bert), device="cpu")
    half = SentenceTransformer(str(tiny_bert), device="cpu", model_kwargs={"dtype": "bfloat16"})
    near, exact = half.encode(texts, normalize_embeddings=True), full.encode(texts, normalize_embeddings=True)
    assert near.dtype == np.float32 and 1e-5 < np.abs(near - exact).max() < 0.05


def test_nothing_changes_unless_it_is_asked_for(tiny_bert: Path) -> None:
    assert SentenceTransformer(str(tiny_bert), device="cpu").dtype == torch.float32
