"""Whole training runs with both libraries: the same loss at every step, the same weights at the end."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Image
from torch import Tensor, nn

from fixtures.agree import agree
from fixtures.words import sentences, triplets

pytestmark = [pytest.mark.parity, pytest.mark.slow]

LIBRARIES = ("omnitune", "sentence_transformers")
MakeLoss = Callable[[Any, Any], Any]


class Run(NamedTuple):
    """What a training run came to."""

    losses: list[float]
    evaluation_losses: list[float]
    history: list[dict[str, float]]
    embeddings: Any


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Run]:
    """Train with one library, recording the loss of every step without the rounding of the log."""

    def run(
        library: str, path: Path, data: Callable[[], Any], make_loss: MakeLoss, probe: list[Any], **settings: Any
    ) -> Run:
        st = importlib.import_module(library)
        losses = importlib.import_module(f"{library}.sentence_transformer.losses")
        model = st.SentenceTransformer(str(path), device="cpu")
        loss = make_loss(losses, model)
        recorded: dict[bool, list[float]] = {True: [], False: []}

        def record(module: nn.Module, _: Any, value: Any) -> None:
            total = sum(value.values()) if isinstance(value, dict) else value
            assert isinstance(total, Tensor)
            recorded[torch.is_grad_enabled()].append(total.item())

        for one in loss.values() if isinstance(loss, dict) else [loss]:
            one.register_forward_hook(record)
        args = st.SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / library), report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no",
            logging_steps=1, dataloader_pin_memory=False, seed=7, warmup_steps=2,
            **{"learning_rate": 2e-4, "per_device_train_batch_size": 8, "num_train_epochs": 2, **settings},
        )  # fmt: skip
        datasets = data()
        trainer = st.SentenceTransformerTrainer(
            model=model, args=args, train_dataset=datasets["train"], eval_dataset=datasets.get("test"), loss=loss
        )
        trainer.train()
        history = [
            {k: v for k, v in e.items() if "time" not in k and "second" not in k} for e in trainer.state.log_history
        ]
        return Run(recorded[True], recorded[False], history, model.encode(probe))

    return run


def assert_same_run(
    train: Callable[..., Run],
    path: Path,
    data: Callable[[], Any],
    make_loss: MakeLoss,
    probe: list[Any],
    *,
    steps: int,
    **settings: Any,
) -> None:
    ours, theirs = (train(library, path, data, make_loss, probe, **settings) for library in LIBRARIES)
    assert len(theirs.losses) == steps
    np.testing.assert_allclose(ours.losses, theirs.losses, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours.evaluation_losses, theirs.evaluation_losses, atol=1e-5, rtol=1e-5)
    assert max(theirs.losses) - min(theirs.losses) > 1e-2
    agree(ours.embeddings, theirs.embeddings, atol=1e-4)
    assert [entry.keys() for entry in ours.history] == [entry.keys() for entry in theirs.history]
    assert [e.get("learning_rate") for e in ours.history] == [e.get("learning_rate") for e in theirs.history]


def matryoshka_of_cached(losses: Any, model: Any) -> Any:
    inner = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)
    return losses.MatryoshkaLoss(model, inner, matryoshka_dims=[32, 16, 8])


def texts_of(*columns: str) -> Callable[[], DatasetDict]:
    def make() -> DatasetDict:
        def part(rows: int, seed: int) -> Dataset:
            return Dataset.from_dict({name: triplets(rows, seed=seed)[name] for name in columns})

        return DatasetDict(train=part(52, 1), test=part(20, 2))

    return make


def test_matryoshka_of_cached_on_texts(train: Callable[..., Run], tiny_bert: Path) -> None:
    settings = {"batch_sampler": "no_duplicates", "eval_strategy": "steps", "eval_steps": 0.25}
    data = texts_of("anchor", "positive", "negative")
    assert_same_run(train, tiny_bert, data, matryoshka_of_cached, sentences(9), steps=14, **settings)


def test_prompts_and_accumulation(train: Callable[..., Run], tiny_bert: Path) -> None:
    settings = {"prompts": {"anchor": "query: ", "positive": "document: "}, "gradient_accumulation_steps": 2}
    assert_same_run(
        train,
        tiny_bert,
        texts_of("anchor", "positive"),
        lambda losses, model: losses.MultipleNegativesRankingLoss(model),
        sentences(9),
        steps=14,
        **settings,
    )


def test_two_datasets_with_a_loss_each(train: Callable[..., Run], tiny_bert: Path) -> None:
    def data() -> dict[str, Any]:
        rows = triplets(40, seed=5)
        scores = np.random.default_rng(0).random(40).tolist()
        return {
            "train": {
                "pairs": Dataset.from_dict({"anchor": rows["anchor"], "positive": rows["positive"]}),
                "scored": Dataset.from_dict({"a": rows["anchor"], "b": rows["negative"], "score": scores}),
            }
        }

    def make_loss(losses: Any, model: Any) -> dict[str, Any]:
        return {
            "pairs": losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4),
            "scored": losses.CoSENTLoss(model),
        }

    settings = {"multi_dataset_batch_sampler": "round_robin", "num_train_epochs": 1}
    assert_same_run(train, tiny_bert, data, make_loss, sentences(9), steps=10, **settings)


def test_a_router(train: Callable[..., Run], st_router: Path) -> None:
    settings = {"router_mapping": {"anchor": "query", "positive": "document"}, "learning_rate": 1e-3}
    assert_same_run(
        train,
        st_router,
        texts_of("anchor", "positive"),
        lambda losses, model: losses.MultipleNegativesRankingLoss(model),
        sentences(9),
        steps=14,
        **settings,
    )


@pytest.mark.parametrize("name", ["tiny_qwen3_vl", "tiny_qwen2_5_vl", "tiny_clip"])
def test_matryoshka_of_cached_on_pages(
    request: pytest.FixtureRequest, train: Callable[..., Run], page_files: list[Path], page_images: list[Any], name: str
) -> None:
    def data() -> dict[str, Any]:
        paths = [str(path) for path in page_files]
        columns = {
            "query": sentences(24, seed=4),
            "image": paths * 2,
            "negative": [*paths[3:], *paths[:3]] * 2,
        }
        dataset = Dataset.from_dict(columns)
        return {"train": dataset.cast_column("image", Image()).cast_column("negative", Image())}

    def make_loss(losses: Any, model: Any) -> Any:
        inner = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
        return losses.MatryoshkaLoss(model, inner, matryoshka_dims=[24, 8])

    settings = {"batch_sampler": "no_duplicates", "per_device_train_batch_size": 6}
    path = request.getfixturevalue(name)
    assert_same_run(train, path, data, make_loss, page_images, steps=8, **settings)


@pytest.mark.parametrize("name", ["tiny_qwen3", "tiny_mpnet", "st_static", "st_dense"])
def test_other_text_models(request: pytest.FixtureRequest, train: Callable[..., Run], name: str) -> None:
    def make_loss(losses: Any, model: Any) -> Any:
        if name == "st_static":  # which Sentence Transformers cannot cut into mini-batches
            return losses.MultipleNegativesRankingLoss(model)
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)

    data = texts_of("anchor", "positive", "negative")
    assert_same_run(train, request.getfixturevalue(name), data, make_loss, sentences(9), steps=14)
