"""What Sentence Transformers refuses we refuse, with an error that its users' code catches; and what we take beside."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from fixtures.words import triplets

pytestmark = pytest.mark.parity

LIBRARIES = ("omnitune", "sentence_transformers")

CALLS: dict[str, Callable[[Any], Any]] = {
    "a prompt that there is not": lambda model: model.encode("a", prompt_name="unknown"),
    "a batch of nothing": lambda model: model.encode(["a"], batch_size=0),
    "an unknown precision": lambda model: model.encode(["a"], precision="int3"),
    "an unknown argument": lambda model: model.encode(["a"], colour="red"),
    "an image for a text model": lambda model: model.encode([Image.new("RGB", (8, 8))]),
    "a number": lambda model: model.encode([3]),
    "None": lambda model: model.encode(None),
    "None among texts": lambda model: model.encode(["a", None]),
    "an empty dict": lambda model: model.encode([{}]),
    "a dict of something else": lambda model: model.encode([{"title": "a"}]),
    "an unknown similarity": lambda model: setattr(model, "similarity_fn_name", "unknown"),
    "similarity of other widths": lambda model: model.similarity(np.ones((2, 3)), np.ones((2, 4))),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls(both: Callable[..., Any], tiny_bert: Path, call: str) -> None:
    ours, theirs = both(tiny_bert)
    with pytest.raises((ValueError, TypeError, RuntimeError)) as expected:
        CALLS[call](theirs)
    with pytest.raises(expected.type):
        CALLS[call](ours)


@pytest.mark.parametrize(
    "options",
    [
        {"model_name_or_path": "/no/such/directory"},
        {"model_name_or_path": "nobody/nothing-of-that-name"},
        {"default_prompt_name": "unknown"},
        {"similarity_fn_name": "unknown"},
        {"backend": "unknown"},
    ],
    ids=str,
)
def test_constructors(tiny_bert: Path, options: dict[str, Any]) -> None:
    options = {"model_name_or_path": str(tiny_bert), "device": "cpu", **options}
    ours, theirs = (importlib.import_module(library).SentenceTransformer for library in LIBRARIES)
    with pytest.raises((ValueError, OSError)) as expected:
        theirs(**options)
    with pytest.raises(expected.type):
        ours(**options)


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "dimensions beyond the model": lambda ls, m: ls.MatryoshkaLoss(m, ls.MultipleNegativesRankingLoss(m), [64, 32]),
    "no dimensions": lambda ls, m: ls.MatryoshkaLoss(m, ls.MultipleNegativesRankingLoss(m), []),
    "weights that do not fit": lambda ls, m: ls.MatryoshkaLoss(m, ls.MultipleNegativesRankingLoss(m), [8], [1.0, 2.0]),
    "an unknown direction": lambda ls, m: ls.MultipleNegativesRankingLoss(m, directions=("sideways",)),
    "an unknown partition": lambda ls, m: ls.CachedMultipleNegativesRankingLoss(m, partition_mode="unknown"),
    "an unknown hardness": lambda ls, m: ls.CachedMultipleNegativesRankingLoss(m, hardness_mode="unknown"),
    "a negative hardness": lambda ls, m: ls.CachedMultipleNegativesRankingLoss(
        m, hardness_mode="in_batch_negatives", hardness_strength=-1.0
    ),
}


@pytest.mark.parametrize("make", LOSSES)
def test_losses(both: Callable[..., Any], tiny_bert: Path, make: str) -> None:
    for library, model in reversed([*zip(LIBRARIES, both(tiny_bert), strict=True)]):
        losses = importlib.import_module(f"{library}.sentence_transformer.losses")
        with pytest.raises(ValueError, match=r"."):
            LOSSES[make](losses, model)


@pytest.mark.parametrize("columns", [["return_loss", "anchor"], ["anchor", "dataset_name"]], ids=str)
def test_reserved_columns(both: Callable[..., Any], tiny_bert: Path, tmp_path: Path, columns: list[str]) -> None:
    texts = triplets(8)["anchor"]
    for library, model in zip(LIBRARIES, both(tiny_bert), strict=True):
        st = importlib.import_module(library)
        losses = importlib.import_module(f"{library}.sentence_transformer.losses")
        args = st.SentenceTransformerTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
        data = Dataset.from_dict(dict.fromkeys(columns, texts))
        loss = losses.MultipleNegativesRankingLoss(model)
        with pytest.raises(ValueError, match="column"):
            st.SentenceTransformerTrainer(model=model, args=args, train_dataset=data, loss=loss).train()


def test_what_we_take_beside(both: Callable[..., Any], tiny_bert: Path, tiny_clip: Path) -> None:
    ours, theirs = both(tiny_bert)
    np.testing.assert_array_equal(ours.encode(text for text in ("a pump", "b")), theirs.encode(["a pump", "b"]))
    ours, theirs = both(tiny_clip)
    image = Image.new("RGB", (40, 40), "red")
    with pytest.raises(ValueError, match="mixes"):
        theirs.encode(["a pump", image])
    separate = np.stack([theirs.encode("a pump"), theirs.encode(image)])
    np.testing.assert_allclose(ours.encode(["a pump", image]), separate, atol=1e-5)


def test_images_of_floats_are_not_scaled_twice(both: Callable[..., Any], tiny_clip: Path) -> None:
    ours, theirs = both(tiny_clip)
    bytes_ = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    reference = theirs.encode([bytes_])
    np.testing.assert_allclose(ours.encode([(bytes_ / 255).astype(np.float32)]), reference, atol=1e-5)
    # There, an image in [0, 1] is nearly black.
    assert np.abs(theirs.encode([(bytes_ / 255).astype(np.float32)]) - reference).max() > 0.05


def test_encoding_keeps_the_mode(both: Callable[..., Any], tiny_bert: Path) -> None:
    for model, kept in zip(both(tiny_bert), (True, False), strict=True):
        model.train()
        model.encode(["a pump"])
        assert model.training is kept
        model.eval()
