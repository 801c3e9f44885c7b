"""Checkpoints: every layout is read, ours is read by Sentence Transformers, and nothing is run or lost on the way."""

import errno
import json
import os
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from omnitune import folders
from omnitune.errors import CheckpointError, InputError, ResourceError, UntrustedCodeError
from omnitune.model import checkpoint
from omnitune.model.checkpoint import LoadOptions
from omnitune.model.dense import SentenceTransformer
from omnitune.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    TextReader,
    Transformer,
    WeightedLayerPooling,
    WordEmbeddings,
    WordWeights,
    files,
    registry,
)
from omnitune.modules.sequence import preprocess_through

TEXTS = ["the quick brown fox", "a page about lists", ""]
CONFIG = {"model_type": "SentenceTransformer", "prompts": {"query": "q: "}, "similarity_fn_name": "cosine"}


def refuse(path, options):
    raise AssertionError("there is a modules.json")


def load(path, bare=refuse, **options):
    return checkpoint.load(str(path), LoadOptions(**options), bare=bare)


def save(folder, modules, config=CONFIG, **forward_kwargs):
    named = {str(i): module for i, module in enumerate(modules)}
    checkpoint.save(folder, named, config, {"0": [], **forward_kwargs})
    return folder


def embed(modules, inputs=TEXTS, **kwargs):
    modules = list(modules.values()) if isinstance(modules, dict) else modules
    features = preprocess_through(modules, inputs, **kwargs)
    with torch.no_grad():
        for module in modules:
            features = module.eval()(features)
    return features["sentence_embedding"]


def rival(path, **options):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path), device="cpu", **options)


@pytest.fixture
def encoder(tiny_bert):
    module = Transformer(str(tiny_bert)).eval()
    return [module, Pooling(module.get_embedding_dimension(), "mean")]


# -- reading


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["st_bert", "st_bert_legacy", "st_dense", "st_static", "st_clip", "st_qwen3_vl", "minilm"]
)
def test_embeds_as_sentence_transformers_what_it_saved_and_the_other_way_round(request, name, tmp_path, page_images):
    path = request.getfixturevalue(name)
    theirs, ours = rival(path), load(path)
    batches = [TEXTS, page_images[:3]] if theirs.supports("image") else [TEXTS]
    save(tmp_path, ours.modules.values())
    again = rival(tmp_path)
    for inputs in batches:
        expected = theirs.encode(inputs, convert_to_tensor=True)
        torch.testing.assert_close(embed(ours.modules, inputs), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(again.encode(inputs, convert_to_tensor=True), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(embed(load(tmp_path).modules, inputs), expected, rtol=0, atol=1e-6)
    names = {f"{i}.{key}" for i, module in ours.modules.items() for key in module.state_dict()}
    assert names == set(theirs.state_dict())


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["query", "document"])
def test_routers_are_read_both_ways(st_router, tmp_path, task):
    theirs, ours = rival(st_router), load(st_router)
    expected = theirs.encode(TEXTS, task=task, convert_to_tensor=True)
    torch.testing.assert_close(embed(ours.modules, task=task), expected, rtol=0, atol=1e-6)
    save(tmp_path, ours.modules.values())
    torch.testing.assert_close(rival(tmp_path).encode(TEXTS, task=task, convert_to_tensor=True), expected)


def test_a_checkpoint_of_version_2_is_read(encoder, tmp_path):
    """The backbone in a folder of its own, old types, and no folder for what has no parameters."""
    modules = [*encoder, Normalize()]
    expected = embed(modules)
    save(tmp_path, modules)
    (tmp_path / "0_Transformer").mkdir()
    for path in tmp_path.glob("*"):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(tmp_path / "0_Transformer" / path.name)
    shutil.rmtree(tmp_path / "2_Normalize", ignore_errors=True)
    (tmp_path / "config_sentence_transformers.json").unlink()
    (tmp_path / "modules.json").write_text(
        json.dumps(
            [
                {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
            ]
        )
    )
    read = load(tmp_path)
    assert read.config == {}
    torch.testing.assert_close(embed(read.modules), expected)


def test_a_directory_without_modules_is_left_to_the_family(tiny_bert):
    made = load(tiny_bert, bare=lambda path, options: {"0": checkpoint.bare_transformer(path, options)})
    assert list(made.modules) == ["0"]
    assert made.modules["0"].model.name_or_path == str(tiny_bert)


@pytest.mark.parity
def test_every_type_of_sentence_transformers_that_we_have_is_known():
    from sentence_transformers import sentence_transformer
    from sentence_transformers.base import modules as base
    from sentence_transformers.sentence_transformer import modules as dense
    from sentence_transformers.util.deprecated_import import DEPRECATED_MODULE_PATHS

    assert sentence_transformer
    words = (WeightedLayerPooling, WordEmbeddings, WordWeights)
    for kind in (Transformer, Pooling, Dense, Normalize, LayerNorm, Dropout, Router, *words):
        name = kind.__name__
        theirs = getattr(base, name, None) or getattr(dense, name)
        aliases = [old for old, new in DEPRECATED_MODULE_PATHS.items() if new == theirs.__module__]
        places = [theirs.__module__, "sentence_transformers.models", *(old for old in aliases if "Asym" not in old)]
        for place in places:
            assert registry.class_of(f"{place}.{name}", Path()) is kind
    assert registry.class_of("sentence_transformers.models.Asym", Path()) is Router


def test_forward_arguments_and_names_are_kept(encoder, tmp_path):
    save(tmp_path, encoder, **{"1": ["task"]})
    assert load(tmp_path).forward_kwargs == {"0": [], "1": ["task"]}
    entries = json.loads((tmp_path / "modules.json").read_text())
    assert [entry["path"] for entry in entries] == ["", "1_Pooling"]
    assert [entry.get("kwargs") for entry in entries] == [None, ["task"]]


def test_the_name_that_the_user_gave_is_the_models_name(encoder, tmp_path):
    """An adapter on it names its base so, and a cache folder would mean nothing elsewhere."""
    save(tmp_path, encoder)
    module = registry.load_module("sentence_transformers.models.Transformer", tmp_path, "", name="owner/name")
    assert module.model.name_or_path == "owner/name"


# -- refusing


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("{}", "expected a JSON list of objects, got {}"),
        ("[", "expected JSON, got something else"),
        ('[{"path": ""}]', r"entry 0: expected keys type and path, got \['path'\]"),
        ('[{"type": "sentence_transformers.models.Pooling", "path": "../x"}]', r"inside the checkpoint, got '../x'"),
        (
            '[{"type": "sentence_transformers.models.LSTM", "path": ""}]',
            "models.LSTM, which this version does not have",
        ),
        ('[{"type": "sentence_transformers.base.model.torch", "path": ""}]', "base.model.torch, which this version"),
        ('[{"type": "omnitune.runtime.require", "path": ""}]', "omnitune.runtime.require, which this version does not"),
    ],
)
def test_broken_lists_of_modules_are_named(tmp_path, modules, message):
    (tmp_path / "modules.json").write_text(modules)
    for trust in (False, True):
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path, trust_remote_code=trust)


@pytest.fixture
def foreign(encoder, tmp_path):
    """A checkpoint with a module of its own code, which leaves a trace when it is imported."""
    save(tmp_path, [*encoder, Normalize()])
    code = """
        import os, pathlib
        from torch import nn

        pathlib.Path(os.environ["TRACE"]).write_text("imported")

        class Halved(nn.Module):
            def forward(self, features):
                features["sentence_embedding"] = features["sentence_embedding"] / 2
                return features

            def save(self, path, safe_serialization=True):
                pass

            @classmethod
            def load(cls, path):
                return cls()
    """
    (tmp_path / "halving.py").write_text(textwrap.dedent(code))
    entries = json.loads((tmp_path / "modules.json").read_text())
    entries[2]["type"] = "halving.Halved"
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    return tmp_path


def test_code_of_a_checkpoint_runs_only_when_it_is_trusted(foreign, encoder, monkeypatch, tmp_path_factory):
    trace = tmp_path_factory.mktemp("trace") / "trace"
    monkeypatch.setenv("TRACE", str(trace))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(trace.parent / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(trace.parent / "modules")])
    with pytest.raises(UntrustedCodeError, match=r"holds a module halving.Halved, .*trust_remote_code=True"):
        load(foreign)
    assert not trace.exists()
    read = load(foreign, trust_remote_code=True)
    assert trace.exists()
    torch.testing.assert_close(embed(read.modules), embed(encoder) / 2)
    again = trace.parent / "again"
    save(again, read.modules.values())
    assert json.loads((again / "modules.json").read_text())[2]["type"] == "halving.Halved"
    assert (again / "halving.py").is_file()


def test_trusted_code_that_is_not_there_or_no_module_says_so(foreign):
    entries = json.loads((foreign / "modules.json").read_text())
    for name, message in [
        ("nowhere.Halved", r"there is no nowhere.py in the checkpoint, and no installed package has it"),
        ("json.loads", "expected a torch.nn.Module class, got <function loads"),
    ]:
        entries[2]["type"] = name
        (foreign / "modules.json").write_text(json.dumps(entries))
        with pytest.raises(CheckpointError, match=message):
            load(foreign, trust_remote_code=True)


def test_requirements_are_enforced(encoder, tmp_path, caplog):
    requirements = {
        "transformers": {"specifier": "<4", "reason": "Newer ones scale twice."},
        "surely-not-installed": ">=1",
        "pytorch": ">=1",
        "python": ">=3",
    }
    save(tmp_path, encoder, {**CONFIG, "requirements": requirements})
    with pytest.raises(
        CheckpointError, match=r"transformers<4, but 5.* is installed. Newer ones scale twice.; surely-not"
    ):
        load(tmp_path)
    save(tmp_path, encoder, {**CONFIG, "requirements": {"torch": "about two"}})
    load(tmp_path)
    assert "'about two' is not a version specifier; not checked" in caplog.text


def test_a_path_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a directory or a repository owner/name; nothing is there: /"):
        load(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="a file is there"):
        load(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"'owner/name' is neither a directory here nor a repository"):
        load("owner/name", local_files_only=True, cache_folder=str(tmp_path))


def test_a_name_without_an_owner_is_looked_for_among_the_familys(encoder, tmp_path, monkeypatch):
    save(tmp_path, encoder)
    asked = []

    def download(repo, **kwargs):
        asked.append(repo)
        if repo == "sentence-transformers/bert-base-uncased":
            raise OSError("404")
        return str(tmp_path)

    monkeypatch.setattr(files, "snapshot_download", download)
    model = SentenceTransformer("all-tiny-L1-v2", device="cpu")
    assert set(asked) == {"sentence-transformers/all-tiny-L1-v2"} == {model.model_card_data.base_model}
    asked.clear()
    SentenceTransformer("bert-base-uncased", device="cpu")
    assert list(dict.fromkeys(asked)) == ["sentence-transformers/bert-base-uncased", "bert-base-uncased"]


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors"])
def test_damaged_weights_are_named(encoder, tmp_path, name):
    save(tmp_path, [*encoder, Dense(encoder[1].get_embedding_dimension(), 8)])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="expected safetensors weights, got a damaged file"):
        load(str(tmp_path))


def test_a_repository_is_downloaded_without_what_is_not_needed(encoder, tmp_path, monkeypatch):
    save(tmp_path, encoder)
    calls = []

    def download(repo, **kwargs):
        calls.append((repo, kwargs))
        return str(tmp_path)

    monkeypatch.setattr(files, "snapshot_download", download)
    read = load("owner/name", token="t", cache_folder="c", revision="r", local_files_only=True)
    assert len(calls) == 1
    (repo, kwargs) = calls[0]
    assert repo == "owner/name"
    assert {key: kwargs[key] for key in ("token", "cache_dir", "revision", "local_files_only")} == {
        "token": "t",
        "cache_dir": "c",
        "revision": "r",
        "local_files_only": True,
    }
    assert {"onnx/*", "openvino/*", "*.bin"} <= set(kwargs["ignore_patterns"])
    assert read.modules["0"].model.name_or_path == "owner/name"


# -- writing


def test_text_models_are_written_in_the_form_that_most_programs_read(encoder, tmp_path):
    save(tmp_path, [*encoder, Dense(32, 8), Normalize()])
    assert [entry["type"] for entry in json.loads((tmp_path / "modules.json").read_text())] == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize")
    ]
    assert "pooling_mode_mean_tokens" in json.loads((tmp_path / "1_Pooling/config.json").read_text())
    dense = json.loads((tmp_path / "2_Dense/config.json").read_text())
    assert set(dense) == {"in_features", "out_features", "bias", "activation_function"}
    config = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert config.items() >= CONFIG.items()
    assert set(config["__version__"]) == {"omnitune", "transformers", "pytorch"}
    assert "requirements" not in config


def test_a_vision_language_model_is_written_with_its_modalities(tiny_qwen3_vl, tmp_path):
    save(tmp_path, [Transformer(str(tiny_qwen3_vl)), Pooling(32, "lasttoken")])
    types = [entry["type"] for entry in json.loads((tmp_path / "modules.json").read_text())]
    assert types[0] == "sentence_transformers.base.modules.transformer.Transformer"
    assert "message" in json.loads((tmp_path / "sentence_bert_config.json").read_text())["modality_config"]


class Failing(nn.Module):
    """Fails in the middle of a save."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def save(self, path, **kwargs):
        raise self.error


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            ResourceError,
            "the disk is full .*what was made before is kept",
        ),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            ResourceError,
            "the disk is full",
        ),
        (OSError(errno.EACCES, "Permission denied"), OSError, "Permission denied"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_a_save_that_fails_leaves_what_was_there(encoder, tmp_path, error, raised, message):
    folder = tmp_path / "model"
    save(folder, encoder)
    before = contents(tmp_path)
    with pytest.raises(raised, match=message):
        save(folder, [*encoder, Failing(error)])
    assert contents(tmp_path) == before


def test_what_a_killed_save_left_is_cleared_away(encoder, tmp_path):
    folder = tmp_path / "model"
    for killed in (folder / ".model.abc12_de.partial", tmp_path / ".model.abc12_de.partial"):
        killed.mkdir(parents=True)
        (killed / "model.safetensors").write_text("half")
        os.utime(killed, (1, 1))
    save(folder, encoder)
    assert not [*folder.glob(".*"), *tmp_path.glob(".*")]


def test_a_save_leaves_the_partial_of_another_one_alone(encoder, tmp_path):
    folder = tmp_path / "model"
    with folders.replacing_folder(folder) as other:
        os.utime(other, (1, 1))
        save(folder, encoder)
        (other / "late.txt").write_text("")
    assert (folder / "late.txt").exists() and (folder / "modules.json").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["_exchange", "flush", "_link_others"])
def test_a_save_that_is_killed_at_the_end_leaves_the_whole_former_checkpoint(encoder, tmp_path, monkeypatch, name):
    folder = tmp_path / "model"
    save(folder, encoder)
    before = contents(folder)

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, name, killed)
    with pytest.raises(KeyboardInterrupt):
        save(folder, [*encoder, Normalize()], {**CONFIG, "prompts": {"query": "new: "}})
    assert contents(folder) == before


def test_files_of_others_stay_the_same_files(encoder, tmp_path):
    folder = tmp_path / "model"
    save(folder, encoder)
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3/optimizer.pt").write_text("state")
    folder.chmod(0o750)
    with (folder / "log.txt").open("w") as log:  # held open, as a trainer's log is
        save(folder, [*encoder, Normalize()])
        log.write("line")
    assert (folder / "log.txt").read_text() == "line"
    assert (folder / "checkpoint-3/optimizer.pt").read_text() == "state"
    assert folder.stat().st_mode & 0o777 == 0o750
    assert len(load(folder).modules) == 3


def test_the_working_directory_can_be_saved_to(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for modules in (encoder, [*encoder, Normalize()]):
        save(".", modules)
        assert len(load(".").modules) == len(modules)
    assert os.getcwd() == str(tmp_path) and not list(tmp_path.glob(".*"))


def test_what_cannot_be_swapped_in_one_step_is_in_two(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders.ctypes, "CDLL", lambda *_, **__: object())
    folder = tmp_path / "model"
    save(folder, encoder)
    save(folder, [*encoder, Normalize()])
    assert len(load(folder).modules) == 3 and not list(tmp_path.glob(".*"))


def test_other_files_stay_and_former_weights_go(encoder, tmp_path):
    tmp_path.joinpath("trainer_state.json").write_text("{}")
    stale = [
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "adapter_config.json",
        "pytorch_model.bin",
    ]
    for name in stale:
        tmp_path.joinpath(name).write_text("{}")
    save(tmp_path, encoder)
    assert not [name for name in stale if (tmp_path / name).exists()]
    assert (tmp_path / "trainer_state.json").exists()
    torch.testing.assert_close(embed(load(tmp_path).modules), embed(encoder))


def test_pickles_are_not_written(encoder, tmp_path):
    with pytest.raises(InputError, match="only safetensors files are written"):
        checkpoint.save(tmp_path / "model", {"0": encoder[0]}, CONFIG, {}, safe_serialization=False)
    assert not (tmp_path / "model").exists()


# -- modules of our own


def with_reader(encoder, routed):
    if not routed:
        return [TextReader(), *encoder]
    return [Router({"text": encoder, "image": [TextReader(), *encoder]})]


@pytest.mark.parametrize("routed", [False, True])
def test_a_checkpoint_with_a_module_of_our_own_loads_here(encoder, tmp_path, routed):
    save(tmp_path, with_reader(encoder, routed))
    torch.testing.assert_close(embed(load(tmp_path).modules), embed(encoder))


@pytest.mark.parity
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("routed", [False, True])
def test_sentence_transformers_says_in_one_error_that_it_needs_omnitune(encoder, tmp_path, routed, trust):
    """Whether or not omnitune is installed, as the check does not look for it."""
    save(tmp_path, with_reader(encoder, routed))
    with pytest.raises(ImportError, match="this checkpoint needs omnitune") as caught:
        rival(tmp_path, trust_remote_code=trust)
    assert "TextReader" in str(caught.value)
    assert "pip install omnitune; from omnitune import SentenceTransformer" in str(caught.value)
    assert "Install compatible versions" not in str(caught.value)


@pytest.fixture(autouse=True)
def _quiet():
    transformers_logging.disable_progress_bar()
