"""Adapters by tower, loaded, and merged only where embeddings agree."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from omnitune import SentenceTransformer
from omnitune.errors import InputError

peft = pytest.importorskip("peft")

IMAGE = Image.new("RGB", (40, 40), "red")


def opened(path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(path), device="cpu")


def lora(**options: object) -> object:
    return peft.LoraConfig(r=4, lora_alpha=8, **{"target_modules": ["q_proj", "v_proj"], **options})


def stir(model: SentenceTransformer) -> None:
    """Make the adapter do something: a fresh one changes nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)


def adapted(model: SentenceTransformer) -> set[str]:
    """Parts of the backbone that have adapters."""
    return {name.split(".")[0] for name, p in model.transformers_model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize(
    ("towers", "parts"),
    [
        ({"vision": "frozen", "language": "lora"}, {"text_model"}),
        ({"vision": "lora", "language": "frozen"}, {"vision_model"}),
        ({"vision": "frozen"}, {"text_model"}),
        (None, {"text_model", "vision_model"}),
    ],
)
def test_towers_of_clip(tiny_clip: Path, towers: dict[str, str] | None, parts: set[str]) -> None:
    model = opened(tiny_clip)
    config = lora()
    model.add_adapter(config, towers=towers)
    assert adapted(model) == parts
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    assert config.exclude_modules is None


def test_towers_of_a_vision_language_model(tiny_qwen3_vl: Path) -> None:
    model = opened(tiny_qwen3_vl)
    model.add_adapter(lora(target_modules="all-linear"), towers={"vision": "frozen", "language": "lora"})
    assert adapted(model) == {"language_model"}
    # Nothing to leave out: the vision tower's layers have other names.
    model = opened(tiny_qwen3_vl)
    model.add_adapter(lora(), towers={"vision": "frozen", "language": "lora"})
    assert adapted(model) == {"language_model"}


@pytest.mark.parametrize("given", [["layers.0.self_attn.v_proj"], r".*layers\.0\..*v_proj"])
def test_towers_beside_what_is_left_out_already(tiny_clip: Path, given: object) -> None:
    model = opened(tiny_clip)
    model.add_adapter(lora(exclude_modules=given), towers={"vision": "frozen"})
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert adapted(model) == {"text_model"}
    assert names and not any("layers.0.self_attn.v_proj" in name for name in names)


@pytest.mark.parametrize(
    ("towers", "config", "message"),
    [
        ({"audio": "lora"}, {}, r"expected parts among \['language', 'vision'\] of this backbone, got \['audio'\]"),
        ({"vision": "half"}, {}, r'expected "lora" or "frozen" for each, got \[.half.\]'),
        (
            {"vision": "lora"},
            {"target_modules": r"text_model.*q_proj"},
            r"that are in the vision tower \(vision_model\)",
        ),
    ],
)
def test_towers_that_cannot_be(tiny_clip: Path, towers: dict[str, str], config: dict[str, str], message: str) -> None:
    model = opened(tiny_clip)
    with pytest.raises(InputError, match=message):
        model.add_adapter(lora(**config), towers=towers)
    assert not adapted(model)


def test_an_adapter_by_tower_is_saved_and_loaded(tiny_clip: Path, tmp_path: Path) -> None:
    model = opened(tiny_clip)
    model.add_adapter(lora(), towers={"vision": "frozen", "language": "lora"})
    stir(model)
    model.save_pretrained(str(tmp_path))
    again = opened(tmp_path)
    assert adapted(again) == {"text_model"}
    for item in ("some text", IMAGE):
        assert torch.equal(again.encode(item, convert_to_tensor=True), model.encode(item, convert_to_tensor=True))
    plain = opened(tiny_clip)
    plain.load_adapter(str(tmp_path))
    torch.testing.assert_close(plain.encode("some text"), model.encode("some text"))


@pytest.mark.parametrize("checkpoint", ["tiny_clip", "tiny_qwen3_vl", "tiny_bert"])
def test_a_merged_adapter_is_in_the_weights(request: pytest.FixtureRequest, tmp_path: Path, checkpoint: str) -> None:
    path = request.getfixturevalue(checkpoint)
    model = opened(path)
    model.add_adapter(lora(target_modules="all-linear"))
    stir(model)
    before = model.encode("some text", convert_to_tensor=True)
    assert not torch.allclose(before, opened(path).encode("some text", convert_to_tensor=True), atol=1e-3)
    assert 0 <= model.merge_adapter() <= 1e-4
    assert not adapted(model)
    torch.testing.assert_close(model.encode("some text", convert_to_tensor=True), before, rtol=1e-4, atol=1e-5)
    model.save_pretrained(str(tmp_path))
    assert not (tmp_path / "adapter_config.json").exists()
    torch.testing.assert_close(
        opened(tmp_path).encode("some text", convert_to_tensor=True), before, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parity
def test_st_reads_what_was_merged(tiny_bert: Path, tmp_path: Path) -> None:
    theirs = pytest.importorskip("sentence_transformers")
    model = opened(tiny_bert)
    model.add_adapter(lora(target_modules=["query", "value"]))
    stir(model)
    model.merge_adapter(["some text"])
    model.save_pretrained(str(tmp_path))
    found = theirs.SentenceTransformer(str(tmp_path), device="cpu").encode("some text", convert_to_tensor=True)
    torch.testing.assert_close(found, model.encode("some text", convert_to_tensor=True), rtol=1e-5, atol=1e-5)


def test_a_merge_that_changes_embeddings_is_refused(tiny_bert: Path) -> None:
    model = opened(tiny_bert)
    model.add_adapter(lora(target_modules=["query", "value"]))
    stir(model)
    before = model.encode("some text", convert_to_tensor=True)
    with pytest.raises(InputError, match="expected embeddings that change by at most 0 of their largest entry, got"):
        model.merge_adapter(tolerance=0.0)
    assert adapted(model) == {"encoder"}
    torch.testing.assert_close(model.encode("some text", convert_to_tensor=True), before)
    # A backbone whose adapter counts twice, as a broken merge would: found by the check.
    layer = model.transformers_model.encoder.layer[0].attention.self.query
    merge = layer.merge

    def twice(**options: object) -> None:
        merge(**options)
        with torch.no_grad():
            layer.get_base_layer().weight.add_(layer.get_delta_weight("default"))

    layer.merge = twice
    with pytest.raises(InputError, match="merge in float32, or keep the adapter apart"):
        model.merge_adapter()


def test_what_cannot_be_merged(tiny_bert: Path) -> None:
    model = opened(tiny_bert)
    with pytest.raises(InputError, match="expected a model with an adapter in use, got none"):
        model.merge_adapter()
    model.add_adapter(lora(target_modules=["query"]))
    model.disable_adapters()
    with pytest.raises(InputError, match="add, load or enable it first"):
        model.merge_adapter()
    model = opened(tiny_bert)
    model.add_adapter(lora(target_modules=["query"], modules_to_save=["dense"]))
    with pytest.raises(InputError, match="expected an adapter without modules_to_save"):
        model.merge_adapter()
