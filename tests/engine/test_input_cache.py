"""Processed inputs that are kept: the same numbers, nothing decoded twice, served for equal settings alone."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from omnitune.engine import engine as engine_module
from omnitune.errors import InputError
from omnitune.types import Column

Pages = list[Image.Image]

SEEING = ["tiny_qwen3_vl", "tiny_qwen2_5_vl", "tiny_qwen2_5_omni", "tiny_smolvlm", "tiny_clip", "tiny_siglip"]


def opened(path: Path, **options: Any) -> SentenceTransformer:
    return SentenceTransformer(str(path), device="cpu", **options)


def counts(model: SentenceTransformer) -> tuple[int, int]:
    return model.engine.inputs.hits, model.engine.inputs.misses


@pytest.mark.parametrize("name", SEEING)
def test_kept_inputs_give_the_same_bits(name: str, request: pytest.FixtureRequest, page_images: Pages) -> None:
    model = opened(request.getfixturevalue(name))
    direct = model.encode(page_images, batch_size=4)
    shuffled = [page_images[i] for i in (7, 3, 11, 0, 5)]
    expected = model.encode(shuffled, batch_size=2)
    model.engine.inputs.keep()
    assert np.array_equal(model.encode(page_images, batch_size=4), direct) and counts(model) == (0, 12)
    assert np.array_equal(model.encode(page_images, batch_size=4), direct) and counts(model) == (12, 12)
    assert np.array_equal(model.encode(shuffled, batch_size=2), expected), "other mini-batches of the same rows"
    assert counts(model) == (17, 12)


@pytest.mark.parametrize("name", SEEING)
def test_features_are_those_of_the_processor(name: str, request: pytest.FixtureRequest, page_images: Pages) -> None:
    model = opened(request.getfixturevalue(name))
    plan = model.engine.plan([Column(name="p", items=page_images[:6])], mini_batch_size=6)
    (mini_batch,) = plan.mini_batches
    expected = model.preprocess(list(mini_batch.items))
    model.engine.inputs.keep()
    for part in (page_images[1:3], page_images[:6]):  # rows kept from another mini-batch, and new ones between them
        mini_batches = model.engine.plan([Column(name="p", items=part)], mini_batch_size=6).mini_batches
        (features,) = model.engine.prepare(mini_batches)
    found = engine_module.in_floats(features)
    assert counts(model) == (2, 6) and found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) if isinstance(value, torch.Tensor) else found[key] == value, key


def test_a_kept_image_is_not_decoded(
    tiny_qwen3_vl: Path, page_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(tiny_qwen3_vl)
    model.engine.inputs.keep()
    files = [str(path) for path in page_files[:4]]
    before = model.encode(files)
    monkeypatch.setattr(engine_module, "load_through", lambda *_, **__: pytest.fail("decoded"))
    assert np.array_equal(model.encode(files), before)


def test_pixels_are_kept_as_bytes(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = opened(tiny_qwen3_vl)
    model.engine.inputs.keep()
    model.encode(page_images)
    store = model.engine.inputs.store
    assert store is not None
    pixels = sum(model.preprocess([page])["pixel_values"].nbytes for page in page_images)
    assert pixels / 4 < store.in_memory < pixels / 2


def test_texts_beside_images_and_prompts_are_part_of_the_key(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = opened(tiny_qwen3_vl)
    inputs = [{"text": text, "image": page} for text, page in zip(("a", "b c", "a"), page_images[:3], strict=True)]
    inputs += [{"text": "b c", "image": page_images[0]}]
    direct, prompted = model.encode(inputs), model.encode(inputs, prompt="Find: ")
    model.engine.inputs.keep()
    for _ in range(2):
        assert np.array_equal(model.encode(inputs), direct)
        assert np.array_equal(model.encode(inputs, prompt="Find: "), prompted)
    assert counts(model) == (8, 8)


def test_conversations_with_and_without_images(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = opened(tiny_qwen3_vl)
    image = {"type": "image", "image": page_images[0]}
    other = {"type": "image", "image": page_images[3]}
    contents: list[list[Any]] = [[image], [{"type": "text", "text": "hello"}], [other, image], [image, other]]
    talks = [[{"role": "user", "content": content}] for content in contents]
    direct = model.encode(talks)
    model.engine.inputs.keep()
    for _ in range(2):
        assert np.array_equal(model.encode(talks), direct)
    assert np.allclose(model.encode(talks[1:3]), direct[1:3], atol=1e-6) and counts(model) == (6, 4)


def test_other_settings_never_hit(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = opened(tiny_qwen3_vl)
    model.engine.inputs.keep()
    page = page_images[3]
    before = model.encode(page)
    smaller = {"image": {"size": {"shortest_edge": 256, "longest_edge": 1024}}}
    assert not np.array_equal(model.encode(page, processing_kwargs=smaller), before)
    model[0].processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    assert not np.array_equal(model.encode(page), before)
    model.tokenizer.add_tokens(["<|another|>"])
    model.encode(page)
    assert counts(model) == (0, 4)


def test_recordings_are_not_kept(tiny_clap: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = opened(tiny_clap)
    sounds = [{"array": np.sin(np.arange(n) / 9).astype(np.float32), "sampling_rate": 48_000} for n in (9600, 4800)]
    direct = model.encode(sounds)
    model.engine.inputs.keep()
    for _ in range(2):
        assert np.array_equal(model.encode(sounds), direct)
    assert counts(model) == (0, 4) and caplog.text.count("inputs of the kind 'audio' are not kept") == 1


def test_rows_that_do_not_join_to_the_same_are_not_kept(
    tiny_clip: Path, page_images: Pages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = opened(tiny_clip)
    processor = model.processor.image_processor

    def beside(images: Any, **options: Any) -> Any:
        """An image's pixels, moved by how many are beside it."""
        made = type(processor).preprocess(processor, images, **options)
        made["pixel_values"] += torch.arange(len(made["pixel_values"]))[:, None, None, None]
        made["extra"] = torch.zeros(len(made["pixel_values"]) + 1)
        return made

    monkeypatch.setattr(processor, "preprocess", beside)
    model.engine.inputs.keep()
    first, second = model.encode(page_images[:3]), model.encode(page_images[:3])
    assert np.array_equal(first, second) and counts(model) == (0, 6)
    assert "inputs of the kind 'image' are not kept (extra: expected one entry for each of the 3 rows" in caplog.text


def test_a_small_memory_keeps_what_fits(tiny_qwen3_vl: Path, page_images: Pages) -> None:
    model = opened(tiny_qwen3_vl)
    direct = model.encode(page_images, batch_size=3)
    model.engine.inputs.keep(memory=100_000)
    for _ in range(2):
        assert np.array_equal(model.encode(page_images, batch_size=3), direct)
    store = model.engine.inputs.store
    assert store is not None and 0 < store.in_memory <= 100_000 and 0 < counts(model)[0] < 12


def encoded(path: Path, files: list[str], cache: str, turn: int) -> Any:
    """In a process of its own: embeddings, hits and misses."""
    import os

    os.environ["OMNITUNE_CACHE"] = cache
    torch.set_num_threads(1)
    model = opened(path)
    model.engine.inputs.keep("disk", memory=0)
    return model.encode(files[turn:] + files[:turn], batch_size=2), counts(model)


def test_processes_share_files_and_broken_ones_are_made_anew(
    tiny_qwen3_vl: Path, page_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNITUNE_CACHE", str(tmp_path))
    files = [str(path) for path in page_files[:6]]
    direct = opened(tiny_qwen3_vl).encode(files, batch_size=2)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        made = pool.starmap(encoded, [(tiny_qwen3_vl, files, str(tmp_path), turn) for turn in (0, 3)])
    for turn, (vectors, (hits, misses)) in zip((0, 3), made, strict=True):
        np.testing.assert_allclose(np.roll(vectors, turn, axis=0), direct, atol=1e-6)
        assert hits + misses == 6
    kept = sorted(tmp_path.glob("inputs/**/*.safetensors"))
    assert len(kept) == 6
    kept[0].write_bytes(kept[0].read_bytes()[:-5])
    kept[1].write_bytes(b"")
    model = opened(tiny_qwen3_vl)
    model.engine.inputs.keep("disk")
    assert np.array_equal(model.encode(files, batch_size=2), direct) and counts(model) == (4, 2)
    assert np.array_equal(model.encode(files, batch_size=2), direct) and counts(model) == (10, 2)


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(InputError, match=r'input_cache: expected "auto", "disk" or "off", got \'ram\''):
        SentenceTransformerTrainingArguments(output_dir="x", input_cache="ram")  # type: ignore[arg-type]


@pytest.mark.parametrize("memory", ["auto", 0])
def test_training_has_the_same_losses(
    tiny_qwen3_vl: Path, page_files: list[Path], tmp_path: Path, memory: str | int
) -> None:
    found = {}
    for place in ("off", "auto"):
        model = opened(tiny_qwen3_vl)
        data = Dataset.from_dict({"q": [f"page {i}" for i in range(8)], "p": [str(f) for f in page_files[:8]]})
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_train_epochs=3, logging_steps=1,
            learning_rate=1e-3, report_to=[], save_strategy="no", disable_tqdm=True, activation_memory=memory,
            input_cache=place,
        )  # fmt: skip
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
        trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
        trainer.train()
        found[place] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert found["auto"] == found["off"] and len(set(found["off"])) > 1
    assert counts(model)[1] == 8 and counts(model)[0] >= 16
