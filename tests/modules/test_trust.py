"""A checkpoint's own code never runs unless the caller says so, whatever stands on standard input."""

import ast
import builtins
import json
import shutil
from pathlib import Path

import pytest

import omnitune
from omnitune import CrossEncoder, SentenceTransformer
from omnitune.errors import CheckpointError, DatasetError, OmnituneError, UntrustedCodeError
from omnitune.evaluation.nano_beir import load_subset
from omnitune.finetune.fit import load_rows
from omnitune.model.checkpoint import read_modules
from omnitune.modules.loading import read_settings

CODE = """
import os, pathlib
pathlib.Path(os.environ["TRACE"]).write_text("ran")
from transformers import BertConfig, BertModel, BertTokenizerFast, BertForSequenceClassification
class Config(BertConfig):
    model_type = "evil"
class Model(BertModel):
    config_class = Config
class Classifier(BertForSequenceClassification):
    config_class = Config
class Tokenizer(BertTokenizerFast):
    pass
"""
MAPS = {
    "config.json": {
        "AutoConfig": "code.Config", "AutoModel": "code.Model",
        "AutoModelForSequenceClassification": "code.Classifier", "AutoModelForCausalLM": "code.Classifier",
    },
    "tokenizer_config.json": {"AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"]},
}  # fmt: skip


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """Where code of the checkpoint leaves its trace; standard input says yes to everything."""
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    return tmp_path / "trace"


def with_code(source, folder, *files, **changes):
    shutil.copytree(source, folder)
    (folder / "code.py").write_text(CODE)
    for name in files:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, "auto_map": MAPS[name], **changes}))
    return str(folder)


@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder])
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_an_architecture_that_is_known_is_not_run(kind, name, tiny_bert, tmp_path, trace):
    kind(with_code(tiny_bert, tmp_path / "model", name), device="cpu")
    assert not trace.exists()


@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder])
@pytest.mark.parametrize("options", [{}, {"trust_remote_code": False}, {"config_kwargs": {"trust_remote_code": None}}])
def test_code_that_is_needed_is_one_sentence(kind, options, tiny_bert, tmp_path, trace):
    path = with_code(tiny_bert, tmp_path / "model", "config.json", model_type="evil")
    with pytest.raises(UntrustedCodeError, match="needs code that comes with the checkpoint; .*trust_remote_code=True"):
        kind(path, device="cpu", **options)
    assert not trace.exists()


def test_what_a_checkpoint_says_of_trust_counts_for_nothing(tiny_bert, tmp_path, trace):
    path = with_code(tiny_bert, tmp_path / "model", "config.json", model_type="evil")
    SentenceTransformer(str(tiny_bert), device="cpu").save_pretrained(str(tmp_path / "saved"))
    for name in ("modules.json", "config_sentence_transformers.json"):
        shutil.copy(tmp_path / "saved" / name, Path(path) / name)
    settings = {f"{part}_kwargs": {"trust_remote_code": True} for part in ("model", "processor", "config")}
    (Path(path) / "sentence_bert_config.json").write_text(json.dumps(settings))
    with pytest.raises(OmnituneError):
        SentenceTransformer(path, device="cpu")
    assert not trace.exists()


def test_every_loading_call_says_whether_it_trusts():
    """Those of `modules.loading` hand on arguments that say it; every other one says it itself."""
    silent = []
    for path in Path(omnitune.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            table = ast.unparse(call.func.value).startswith("nn.Embedding")  # torch's, which reads no files
            names = {keyword.arg for keyword in call.keywords}
            handed = path.name == "loading.py" and any("kwargs" in ast.unparse(k) or "others" in ast.unparse(k)
                                                       for k in call.keywords if k.arg is None)  # fmt: skip
            if call.func.attr == "from_pretrained" and not table and "trust_remote_code" not in names and not handed:
                silent.append(f"{path.name}:{call.lineno}")
            pickles = {"np.load": "allow_pickle", "torch.load": "weights_only"}.get(ast.unparse(call.func))
            if pickles and pickles not in names:
                silent.append(f"{path.name}:{call.lineno}")
    assert not silent


@pytest.mark.parametrize("name", ["kernel_config", "weights_only", "offload_folder", "proxies", "cache_dir"])
def test_a_checkpoint_neither_brings_kernels_nor_names_places(name, tmp_path):
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"model_kwargs": {name: "x", "dtype": "float32"}}))
    assert read_settings(tmp_path, ["model_kwargs"]) == {"model_kwargs": {"dtype": "float32"}}


@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder])
@pytest.mark.parametrize("key", ["attn_implementation", "text_config"])
def test_attention_that_is_code_of_the_hub_is_one_sentence(kind, key, tiny_bert, tmp_path, trace):
    asked = "evil/kernel" if key == "attn_implementation" else {"attn_implementation": "evil/kernel"}
    path = with_code(tiny_bert, tmp_path / "model", "config.json", **{key: asked})
    with pytest.raises(UntrustedCodeError, match="wants the attention 'evil/kernel', code of the hub"):
        kind(path, device="cpu")
    (tmp_path / "sentence_bert_config.json").write_text('{"model_kwargs": {"attn_implementation": "evil/kernel"}}')
    assert read_settings(tmp_path, ["model_kwargs"]) == {"model_kwargs": {}}


def test_modules_without_end_are_not_built(tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "Normalize", "path": ""}] * 1_001))
    with pytest.raises(CheckpointError, match="expected at most 1,000 modules, got 1,001"):
        read_modules(tmp_path / "modules.json")


def test_code_of_a_dataset_is_one_sentence(tmp_path, trace):
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "evil.py").write_text(CODE)
    for load in (lambda: load_rows({"path": str(folder)}), lambda: load_subset(str(folder), "corpus", "train", [])):
        with pytest.raises(DatasetError):
            load()
    assert not trace.exists()
