"""Our checkpoints open in Sentence Transformers and its in ours, with the same embeddings."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from PIL import Image
from sentence_transformers.sentence_transformer import modules as st_modules

import omnitune
from fixtures.agree import agree
from fixtures.checkpoints import BUILDERS
from fixtures.older_layouts import LAYOUTS
from omnitune import models

pytestmark = pytest.mark.parity

SAVED = ("st_bert", "st_bert_legacy", "st_clip", "st_dense", "st_qwen3_vl", "st_router", "st_static")
LIBRARIES = {"ours": omnitune, "theirs": sentence_transformers}


def encodings(model: Any, texts: list[str], pages: list[Image.Image]) -> dict[str, Any]:
    """Embeddings of all that a model takes."""
    found = {}
    if model.supports("text"):
        found |= {verb: getattr(model, verb)(texts) for verb in ("encode", "encode_query", "encode_document")}
    if model.supports("image"):
        found["image"] = model.encode(pages)
    if model.supports(("image", "text")):
        found["both"] = model.encode([{"image": p, "text": t} for p, t in zip(pages, texts, strict=False)])
    return found


@pytest.mark.parametrize(("writer", "reader"), [("ours", "ours"), ("ours", "theirs"), ("theirs", "ours")])
@pytest.mark.parametrize("name", [*BUILDERS, *SAVED])
def test_either_reads_what_either_wrote(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    texts: list[str],
    page_images: list[Image.Image],
    name: str,
    writer: str,
    reader: str,
) -> None:
    source = str(request.getfixturevalue(name))
    written = LIBRARIES[writer].SentenceTransformer(source, device="cpu", prompts={"query": "query: "}, truncate_dim=16)
    written.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    read = LIBRARIES[reader].SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    agree(encodings(read, texts, page_images), encodings(written, texts, page_images), atol=1e-6)
    for fact in ("prompts", "truncate_dim", "similarity_fn_name", "max_seq_length", "modalities"):
        assert getattr(read, fact) == getattr(written, fact), fact


@pytest.mark.parametrize("name", [*BUILDERS, *SAVED])
def test_files_have_the_same_names_and_no_pickles(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    source = str(request.getfixturevalue(name))
    for key, library in LIBRARIES.items():
        model = library.SentenceTransformer(source, device="cpu")
        model.save_pretrained(str(tmp_path / key), create_model_card=False)
    ours, theirs = (
        {str(path.relative_to(tmp_path / key)) for path in (tmp_path / key).rglob("*") if path.is_file()}
        for key in LIBRARIES
    )
    # A Normalize without a file of its own is what all readers take, and what most checkpoints have.
    assert {path for path in theirs if not path.endswith("_Normalize/config.json")} <= ours
    assert not [path for path in ours if path.endswith((".bin", ".pt", ".pkl", ".pth"))]


def test_text_models_are_written_for_every_reader(tmp_path: Path, st_dense: Path) -> None:
    omnitune.SentenceTransformer(str(st_dense), device="cpu").save_pretrained(str(tmp_path), create_model_card=False)
    kinds = [module["type"] for module in json.loads((tmp_path / "modules.json").read_text())]
    names = ("Transformer", "Pooling", "Dense", "Normalize")
    assert kinds == [f"sentence_transformers.models.{name}" for name in names]
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True
    assert pooling["word_embedding_dimension"] == 32
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 64


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_qwen3"])
def test_pooling_modes(request: pytest.FixtureRequest, tmp_path: Path, texts: list[str], name: str, mode: str) -> None:
    source = str(request.getfixturevalue(name))
    ours, theirs = (
        library.SentenceTransformer(modules=[kinds.Transformer(source), kinds.Pooling(32, mode)], device="cpu")
        for library, kinds in ((omnitune, models), (sentence_transformers, st_modules))
    )
    agree(ours.encode(texts), theirs.encode(texts))
    ours.save_pretrained(str(tmp_path), create_model_card=False)
    again = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    agree(again.encode(texts), ours.encode(texts))


def test_joined_pooling_modes(tmp_path: Path, tiny_bert: Path, texts: list[str]) -> None:
    for modes in (["cls", "mean"], ["max", "lasttoken", "mean"], ["mean", "cls"]):
        ours, theirs = (
            library.SentenceTransformer(
                modules=[kinds.Transformer(str(tiny_bert)), kinds.Pooling(32, modes)], device="cpu"
            )
            for library, kinds in ((omnitune, models), (sentence_transformers, st_modules))
        )
        agree(ours.encode(texts), theirs.encode(texts))
        folder = str(tmp_path / "-".join(modes))
        ours.save_pretrained(folder, create_model_card=False)
        agree(sentence_transformers.SentenceTransformer(folder, device="cpu").encode(texts), ours.encode(texts))


@pytest.mark.parametrize(
    "activation", [torch.nn.Identity(), torch.nn.Tanh(), torch.nn.GELU(), torch.nn.ReLU()], ids=str
)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"use_residual": True}], ids=str)
def test_dense_layers(
    tmp_path: Path, tiny_bert: Path, texts: list[str], activation: torch.nn.Module, options: dict[str, Any]
) -> None:
    embedded = []
    for key, kinds in (("ours", models), ("theirs", st_modules)):
        torch.manual_seed(1)
        dense = kinds.Dense(32, 12, activation_function=activation, **options)
        modules = [kinds.Transformer(str(tiny_bert)), kinds.Pooling(32), dense, kinds.Normalize()]
        model = LIBRARIES[key].SentenceTransformer(modules=modules, device="cpu")
        model.save_pretrained(str(tmp_path / key), create_model_card=False)
        embedded.append(model.encode(texts))
    agree(*embedded)
    for reader in LIBRARIES.values():
        for folder in LIBRARIES:
            agree(reader.SentenceTransformer(str(tmp_path / folder), device="cpu").encode(texts), embedded[1])


def test_a_router_by_modality(
    tmp_path: Path, tiny_bert: Path, tiny_clip: Path, texts: list[str], page_images: list[Image.Image]
) -> None:
    embedded: list[Any] = []
    for key, kinds in (("ours", models), ("theirs", st_modules)):
        torch.manual_seed(2)
        text = [kinds.Transformer(str(tiny_bert)), kinds.Pooling(32), kinds.Dense(32, 24)]
        router = kinds.Router(
            {"text": text, "image": [kinds.Transformer(str(tiny_clip))]},
            default_route="text",
            route_mappings={(None, "image"): "image", (None, "text"): "text"},
        )
        model = LIBRARIES[key].SentenceTransformer(modules=[router, kinds.Normalize()], device="cpu")
        model.save_pretrained(str(tmp_path / key), create_model_card=False)
        embedded.append([model.encode(texts), model.encode(page_images), model.encode_query(texts)])
    agree(*embedded)
    for reader in LIBRARIES.values():
        for folder in LIBRARIES:
            again = reader.SentenceTransformer(str(tmp_path / folder), device="cpu")
            agree([again.encode(texts), again.encode(page_images), again.encode_query(texts)], embedded[1])


def test_a_router_with_a_shared_tower(tmp_path: Path, tiny_bert: Path, texts: list[str]) -> None:
    embedded = []
    for key, kinds in (("ours", models), ("theirs", st_modules)):
        torch.manual_seed(2)
        tower, pooling = kinds.Transformer(str(tiny_bert)), kinds.Pooling(32)
        router = kinds.Router.for_query_document([tower, pooling, kinds.Dense(32, 32)], [tower, pooling])
        model = LIBRARIES[key].SentenceTransformer(modules=[router], device="cpu")
        model.save_pretrained(str(tmp_path / key), create_model_card=False)
        embedded.append([model.encode_query(texts), model.encode_document(texts)])
    agree(*embedded)
    for reader in LIBRARIES.values():
        for folder in LIBRARIES:
            again = reader.SentenceTransformer(str(tmp_path / folder), device="cpu")
            agree([again.encode_query(texts), again.encode_document(texts)], embedded[1])


def test_a_lora_adapter(tmp_path: Path, tiny_bert: Path, texts: list[str]) -> None:
    peft = pytest.importorskip("peft")
    for writer in LIBRARIES.values():
        folder = str(tmp_path / writer.__name__)
        model = writer.SentenceTransformer(str(tiny_bert), device="cpu")
        plain = model.encode(texts)
        model.add_adapter(peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False))
        adapted = model.encode(texts)
        assert np.abs(adapted - plain).max() > 1e-3
        model.save_pretrained(folder, create_model_card=False)
        for reader in LIBRARIES.values():
            agree(reader.SentenceTransformer(folder, device="cpu").encode(texts), adapted)


def test_the_pretrained_one(minilm: Path, texts: list[str]) -> None:
    ours, theirs = (library.SentenceTransformer(str(minilm), device="cpu") for library in LIBRARIES.values())
    assert ours.max_seq_length == theirs.max_seq_length
    agree(ours.encode(texts[:6]), theirs.encode(texts[:6]))


@pytest.mark.parametrize("key", ["unknown_key", "pooling_mode_unknown"])
def test_what_they_refuse_we_refuse(tmp_path: Path, st_bert: Path, key: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(st_bert, folder)
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: True}))
    with pytest.raises(TypeError):
        sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    with pytest.raises(ValueError, match=key):
        omnitune.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_older_layouts(
    tmp_path: Path, tiny_bert: Path, tiny_clip: Path, texts: list[str], page_images: list[Image.Image], layout: str
) -> None:
    LAYOUTS[layout](tmp_path / "old", tiny_bert, tiny_clip)
    ours, theirs = (library.SentenceTransformer(str(tmp_path / "old"), device="cpu") for library in LIBRARIES.values())
    agree(encodings(ours, texts, page_images), encodings(theirs, texts, page_images))
    assert (ours.max_seq_length, ours.modalities) == (theirs.max_seq_length, theirs.modalities)
    ours.save_pretrained(str(tmp_path / "new"), create_model_card=False)
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "new"), device="cpu")
    agree(encodings(again, texts, page_images), encodings(ours, texts, page_images))


def test_layer_norm_and_dropout(tmp_path: Path, tiny_bert: Path, texts: list[str]) -> None:
    kinds = st_modules
    modules = [kinds.Transformer(str(tiny_bert)), kinds.Pooling(32), kinds.LayerNorm(32), kinds.Dropout(0.1)]
    theirs = sentence_transformers.SentenceTransformer(modules=modules, device="cpu")
    theirs.save_pretrained(str(tmp_path), create_model_card=False)
    agree(omnitune.SentenceTransformer(str(tmp_path), device="cpu").encode(texts), theirs.encode(texts))
