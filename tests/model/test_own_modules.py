"""Modules that users write for Sentence Transformers: short signatures and older names do what they do there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnitune import SentenceTransformer, models
from omnitune.errors import InputError
from omnitune.modules.sequence import preprocess_through


class Lengths:
    def forward(self, features: Any) -> Any:
        return {**features, "sentence_embedding": features["input_ids"].float()}

    def save(self, p: str) -> None:
        (Path(p) / "lengths.txt").write_text("x")


def ids(texts: Any) -> dict[str, Any]:
    return {"input_ids": torch.tensor([[len(text)] for text in texts])}


class Tokenizes(Lengths, models.InputModule):
    def tokenize(self, texts: Any, **k: Any) -> Any:
        assert not k
        return ids(texts)


class Preprocesses(Lengths, models.InputModule):
    def preprocess(self, texts: Any, **k: Any) -> Any:
        return ids([(k["prompt"] or "") + text for text in texts])


class Short(Lengths, models.InputModule):
    def preprocess(self, texts: Any) -> Any:
        return ids(texts)


class ShortPlain(Lengths, torch.nn.Module):
    def tokenize(self, texts: Any) -> Any:
        return ids(texts)


@pytest.mark.parametrize("kind", [Tokenizes, Preprocesses, Short, ShortPlain])
def test_each_way_to_make_features(kind: Any, tmp_path: Path) -> None:
    model = SentenceTransformer(modules=[kind()])
    assert model.tokenize(["ab", "c"])["input_ids"].tolist() == [[2], [1]]
    assert np.array_equal(model.encode(["ab", "c"]), [[2.0], [1.0]])
    assert np.array_equal(model.encode(["ab", "c"], prompt="123"), [[5.0], [4.0]])
    model.save_pretrained(str(tmp_path))
    assert list(tmp_path.rglob("lengths.txt"))


def test_pairs_get_the_prompt_before_their_first_text() -> None:
    class Pairs(models.InputModule):
        def tokenize(self, texts: Any, **k: Any) -> Any:
            return {"texts": texts}

    assert preprocess_through([Pairs()], [("a", "b")], "p ")["texts"] == [("p a", "b")]


def test_a_router_writes_modules_of_a_short_save(tmp_path: Path) -> None:
    router = models.Router({"query": [Tokenizes()], "document": [Preprocesses()]}, default_route="query")
    SentenceTransformer(modules=[router]).save_pretrained(str(tmp_path))
    assert len(list(tmp_path.rglob("lengths.txt"))) == 2


def test_a_module_that_makes_no_features_says_so() -> None:
    class Nothing(Lengths, models.InputModule):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing: expected a method preprocess\(inputs, prompt=None"):
        SentenceTransformer(modules=[Nothing()]).encode(["a"])


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu")


@pytest.mark.parametrize("base", [torch.nn.Module, models.Module])
@pytest.mark.parametrize("name", ["get_sentence_embedding_dimension", "get_word_embedding_dimension"])
@pytest.mark.filterwarnings("ignore:.*get_sentence_embedding_dimension:FutureWarning")
def test_the_last_module_says_the_dimension_under_an_older_name(model: Any, base: Any, name: str) -> None:
    head = type("Head", (base,), {name: lambda _: 8, "forward": lambda _, features: features})()
    cut = SentenceTransformer(modules=[*model, head])
    assert (cut.get_embedding_dimension(), cut.get_sentence_embedding_dimension()) == (8, 8)


def test_numbers_of_modules_are_no_arguments(model: Any, tmp_path: Path) -> None:
    class Scales(models.Module):
        forward_kwargs = {"scale"}

        def forward(self, features: Any, scale: float = 1.0) -> Any:
            return {**features, "sentence_embedding": features["sentence_embedding"] * scale}

    model.save_pretrained(str(tmp_path))
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    loaded.forward_kwargs = {"0": [], "1": ["own"]}
    assert model.get_model_kwargs() == [] and loaded.get_model_kwargs() == ["own"]
    with pytest.raises(InputError, match="unknown argument '0'"):
        loaded.encode("a", **{"0": 1})
    scaled = SentenceTransformer(modules=[*model, Scales()])
    assert scaled.get_model_kwargs() == ["scale"]
    assert np.allclose(scaled.encode("a", scale=2.0), 2 * model.encode("a"), atol=1e-5)


def test_the_old_name_of_the_device_can_be_set(model: Any) -> None:
    model._target_device = torch.device("cpu")
    assert model._target_device == model.device == torch.device("cpu")


class Decay(models.Module):
    """As the rival's documentation writes a module with a `load` of its own."""

    config_keys = ["dim"]

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(dim))
        self.dim = dim

    def forward(self, features: Any) -> Any:
        return {**features, "sentence_embedding": features["sentence_embedding"] * self.weight}

    def on_model_ready(self, model: Any) -> None:
        self.words = len(model.tokenizer)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", token: Any = None, **kwargs: Any) -> Any:
        of_hub = {"subfolder": subfolder, "token": token, "local_files_only": True}
        module = cls(**cls.load_config(model_name_or_path, **of_hub))
        assert cls.load_file_path(model_name_or_path, "none.json", **of_hub) is None
        assert "weight" in cls.load_torch_weights(model_name_or_path, **of_hub)
        return cls.load_torch_weights(model_name_or_path, model=module, **of_hub)


def test_a_load_of_ones_own_reads_by_the_helpers(tiny_bert: Path, tmp_path: Path) -> None:
    decay = Decay(32)
    torch.nn.init.constant_(decay.weight, 0.25)
    reader = models.Transformer(str(tiny_bert))
    model = SentenceTransformer(modules=[reader, models.Pooling(32), decay])
    assert decay.words == len(model.tokenizer)
    model.save_pretrained(str(tmp_path / "o"))
    back = Decay.load(str(tmp_path / "o"), subfolder="2_Decay")
    assert torch.equal(back.weight, decay.weight)
    assert Decay.load_dir_path(str(tmp_path / "o"), "2_Decay").endswith("2_Decay")
