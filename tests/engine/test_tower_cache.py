"""Outputs of frozen towers: equal to the last bit, served only for the same content, settings and weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image

from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from omnitune.engine import engine as engine_module
from omnitune.errors import InputError
from omnitune.types import Column

Pages = list[Image.Image]


def frozen(path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(path), device="cpu").requires_grad_(False)


def counts(model: SentenceTransformer) -> tuple[int, int]:
    towers = model.engine.towers
    return towers.hits, towers.misses


@pytest.mark.parametrize("name", ["tiny_qwen3_vl", "tiny_qwen2_5_vl", "tiny_smolvlm", "tiny_clip", "tiny_siglip"])
def test_kept_outputs_give_the_same_bits(name: str, request: pytest.FixtureRequest, page_images: Pages) -> None:
    model = frozen(request.getfixturevalue(name))
    pages = page_images[:5]
    direct = model.encode(pages, batch_size=2)
    model.engine.towers.keep()
    assert np.array_equal(model.encode(pages, batch_size=2), direct) and counts(model) == (0, 5)
    assert np.array_equal(model.encode(pages, batch_size=2), direct) and counts(model) == (5, 5)


def test_images_of_a_kept_mini_batch_are_not_decoded(
    tiny_qwen3_vl: Path, page_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = frozen(tiny_qwen3_vl)
    model.engine.towers.keep()
    files = [str(path) for path in page_files[:4]]
    before = model.encode(files)
    monkeypatch.setattr(engine_module, "load_through", lambda *_, **__: pytest.fail("decoded"))
    assert np.array_equal(model.encode(files), before)


def test_left_padded_rows_come_back_left_padded(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = frozen(tiny_qwen3_vl)
    model.tokenizer.padding_side = "left"
    direct = model.encode(page_images[:4])
    model.engine.towers.keep()
    model.encode(page_images[:4])
    assert np.array_equal(model.encode(page_images[:4]), direct) and counts(model) == (4, 4)


def test_another_prompt_reuses_the_tower_and_not_the_words(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = frozen(tiny_qwen3_vl)
    direct = model.encode(page_images[:3], prompt="Find: ")
    model.engine.towers.keep()
    model.encode(page_images[:3])
    assert np.array_equal(model.encode(page_images[:3], prompt="Find: "), direct) and counts(model) == (3, 3)


def test_a_changed_weight_never_hits(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = frozen(tiny_qwen3_vl)
    model.engine.towers.keep()
    page = page_images[0]
    weight = model[0].model.visual.blocks[0].attn.qkv.weight

    model.encode(page)
    for change in (
        lambda: weight.mul_(1.5),
        lambda: weight.data.mul_(1.5),  # leaves no trace but in the numbers
        lambda: setattr(weight, "data", weight.data * 2),
    ):
        before, known = model.encode(page), counts(model)
        with torch.no_grad():
            change()
        assert not np.array_equal(model.encode(page), before)
        assert counts(model) == (known[0], known[1] + 1)


def test_a_changed_setting_never_hits(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = frozen(tiny_qwen3_vl)
    model.engine.towers.keep()
    page = page_images[3]
    before = model.encode(page)
    smaller = {"image": {"size": {"shortest_edge": 256, "longest_edge": 1024}}}
    assert not np.array_equal(model.encode(page, processing_kwargs=smaller), before)
    model[0].processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    assert not np.array_equal(model.encode(page), before)
    with torch.autocast("cpu", torch.bfloat16):
        model.encode(page)
    assert counts(model) == (0, 4)


def test_a_tower_that_trains_or_draws_is_not_kept(tiny_qwen3_vl: Path, tiny_bert: Path, page_images: Pages) -> None:
    model = SentenceTransformer(str(tiny_qwen3_vl), device="cpu")
    model.engine.towers.keep()
    model[0].model.language_model.requires_grad_(False)
    assert model.engine.towers.state("image") is None
    model.requires_grad_(False)
    assert model.engine.towers.state("image") is not None
    assert model.engine.towers.state("text") is None
    model[0].model.visual.blocks[0].mlp.dropout = torch.nn.Dropout(0.5)
    model[0].model.visual.blocks[0].mlp.register_forward_hook(lambda part, _, out: part.dropout(out))
    model.engine.towers.keep()
    model.train()
    assert model.engine.towers.state("image") is None
    model.eval()
    assert model.engine.towers.state("image") is not None
    assert frozen(tiny_bert).engine.towers.state("text") is None


def test_a_small_memory_keeps_what_fits(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = frozen(tiny_qwen3_vl)
    direct = model.encode(page_images)
    model.engine.towers.keep(memory=20_000)
    for _ in range(2):
        assert np.array_equal(model.encode(page_images), direct)
    store = model.engine.towers.store
    assert store is not None and 0 < store.in_memory <= 20_000


def test_files_serve_another_model_of_the_same_weights(
    tiny_qwen3_vl: Path, page_images: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path))
    first, second = frozen(tiny_qwen3_vl), frozen(tiny_qwen3_vl)
    for model in (first, second):
        model.engine.towers.keep("disk")
    before = first.encode(page_images[:3])
    monkeypatch.setattr(engine_module, "load_through", lambda *_, **__: pytest.fail("decoded"))
    assert np.array_equal(second.encode(page_images[:3]), before) and counts(second) == (3, 0)


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(InputError, match=r'tower_cache: expected "auto", "disk" or "off", got \'ram\''):
        SentenceTransformerTrainingArguments(output_dir="x", tower_cache="ram")  # type: ignore[arg-type]


def trained(path: Path, files: list[Path], folder: Path, **options: Any) -> tuple[list[float], SentenceTransformer]:
    """Losses of three epochs of an adapter on the language model."""
    model = SentenceTransformer(str(path), device="cpu")
    torch.manual_seed(0)
    model.add_adapter(LoraConfig(r=2, target_modules=r".*language_model.*\.(q|v)_proj", lora_dropout=0.1))
    data = Dataset.from_dict({"q": [f"page {i}" for i in range(8)], "p": [str(f) for f in files[:8]]})
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, num_train_epochs=3, logging_steps=1, learning_rate=1e-2,
        report_to=[], save_strategy="no", disable_tqdm=True, **options,
    )  # fmt: skip
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    (line,) = [text for text in trainer.opening_lines if "tower" in text] or [""]
    assert ("8 items" in line and "column 'p'" in line) == (options["tower_cache"] != "off")
    return found, model


@pytest.mark.parametrize("memory", ["auto", 0])
def test_training_has_the_same_losses(
    tiny_qwen3_vl: Path, page_files: list[Path], tmp_path: Path, memory: str | int
) -> None:
    options = {"activation_memory": memory}
    off, model = trained(tiny_qwen3_vl, page_files, tmp_path, tower_cache="off", **options)
    assert counts(model) == (0, 0)
    kept, model = trained(tiny_qwen3_vl, page_files, tmp_path, tower_cache="auto", **options)
    assert kept == off and len(set(off)) > 1
    # Once an item, also where every mini-batch is replayed; the one of the forecast again, beside another.
    assert counts(model)[1] == 9 and counts(model)[0] >= 16


def test_what_an_evaluation_kept_trains(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = SentenceTransformer(str(tiny_qwen3_vl), device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=r".*language_model.*\.(q|v)_proj"))
    model.engine.towers.keep()
    model.encode(page_images[:3])
    loss = losses.MultipleNegativesRankingLoss(model)
    loss([Column(name="q", items=["a", "b", "c"]), Column(name="p", items=page_images[:3])]).backward()
    assert counts(model) == (3, 3) and any(p.grad is not None for p in model.parameters())
