"""A checkpoint's JSON that asks for what does not end, or lies elsewhere, is one sentence that names file and key."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from omnitune import SentenceTransformer
from omnitune.errors import CheckpointError, CheckpointNotFoundError
from omnitune.modules import config_checks
from omnitune.modules.loading import read_settings

peft = pytest.importorskip("peft")

ENDLESS = r"(([a-z._0-9])+)+!"


@pytest.fixture(scope="module")
def adapter(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=r".*\.(query|value)"))
    model.save_pretrained(str(folder))
    return folder


def changed(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy of an adapter with other values in its configuration."""
    shutil.copytree(source, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_an_adapter_with_patterns_opens(adapter: Path) -> None:
    assert SentenceTransformer(str(adapter), device="cpu").encode("a page").shape == (32,)


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": ENDLESS}, {"rank_pattern": {"query": 2, ENDLESS: 4}},
        {"layers_to_transform": [0], "layers_pattern": [ENDLESS]},
    ],
)  # fmt: skip
def test_a_pattern_that_does_not_end_is_refused(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.setattr(config_checks, "SECONDS", 1)
    key = [*change][-1]
    folder = changed(adapter, tmp_path / "model", **change)
    with pytest.raises(
        CheckpointError, match=rf"adapter_config.json: {key}: expected a pattern that is matched in 1 s"
    ):
        SentenceTransformer(str(folder), device="cpu")
    if key == "target_modules":
        with pytest.raises(CheckpointError, match="target_modules: expected a pattern"):
            SentenceTransformer(str(adapter), device="cpu").load_adapter(str(folder), "other")


@pytest.mark.parametrize("key", ["exclude_modules", "modules_to_save", "alpha_pattern", "feedforward_modules"])
def test_every_key_that_peft_matches_is_tried(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(path: Path, patterns: Any, names: Any) -> None:
        assert [*patterns] == [(key, ENDLESS)]

    monkeypatch.setattr(config_checks, "check_patterns", found)
    for value in (ENDLESS, [ENDLESS], {ENDLESS: 1}):
        (tmp_path / "adapter_config.json").write_text(json.dumps({key: value}))
        config_checks.check_adapter(tmp_path, list)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": 10**9}, "r: expected a rank of at most 256, as in the weights, got 1,000,000,000"),
        ({"rank_pattern": {"query": 10**9}}, "rank_pattern 'query': expected a rank of at most 256"),
        ({"layer_replication": [[0, 2]] * 5_001}, "layer_replication: expected at most 10,000 layers, got 10,002"),
        ({"init_lora_weights": "pissa_niter_100000000"}, "init_lora_weights: expected at most 1,000 steps"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path: expected a directory or a repository"),
    ],
)
def test_an_adapter_that_asks_for_too_much_is_refused(
    adapter: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointError, match=f"adapter_config.json: {said}"):
        SentenceTransformer(str(changed(adapter, tmp_path / "model", **change)), device="cpu")


def test_an_adapter_that_is_not_there_or_has_no_weights(adapter: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(adapter), device="cpu")
    with pytest.raises(CheckpointNotFoundError, match="nothing is there"):
        model.load_adapter(str(tmp_path / "none"), "other")
    (changed(adapter, tmp_path / "model") / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="expected a adapter that can be read"):
        model.load_adapter(str(tmp_path / "model"), "other")


@pytest.mark.parametrize("name", ["../other.safetensors", "/other.safetensors", "a/../../other.safetensors", "pipe"])
def test_weights_outside_of_the_checkpoint_are_not_read(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    shutil.copy(tmp_path / "other.safetensors", folder / "decoy.safetensors")
    os.mkfifo(folder / "pipe")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index.json: weight_map: embeddings.*: expected a file in this folder"):
        SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("key", ["model_kwargs", "processor_kwargs", "config_kwargs", "model_args"])
@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../x", "~/x"])
def test_paths_out_of_the_checkpoint_are_refused(tmp_path: Path, key: str, path: str) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({key: {"subfolder": path}}))
    with pytest.raises(CheckpointError, match="_config.json: .*_kwargs: subfolder: expected no path out of the checkp"):
        read_settings(tmp_path, ["model_kwargs", "processor_kwargs", "config_kwargs"])
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"tokenizer_name_or_path": path}))
    with pytest.raises(CheckpointError, match="tokenizer_name_or_path: expected a repository owner/name or null"):
        read_settings(tmp_path, ["tokenizer_name_or_path"])


@pytest.mark.parametrize("name", ["device_map", "key_mapping", "local_files_only", "adapter_kwargs", "tokenizer_file"])
def test_a_checkpoint_says_neither_which_files_nor_which_device(tmp_path: Path, name: str) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"model_kwargs": {name: "x"}}))
    assert read_settings(tmp_path, ["model_kwargs"]) == {"model_kwargs": {}}
