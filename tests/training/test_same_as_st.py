"""The same script with either import: same batches, same losses, same evaluation losses, same weights."""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

pytestmark = pytest.mark.parity

Pairs = Callable[..., Dataset]
Run = Callable[..., tuple[list[float], list[float], list[Any]]]

LIBRARIES = ("omnitune", "sentence_transformers")
LOSSES = {"omnitune": "omnitune.losses", "sentence_transformers": "sentence_transformers.sentence_transformer.losses"}


@pytest.fixture
def run(bert: Path, tmp_path: Path) -> Run:
    """Train with one library: its training losses, evaluation losses and weights."""

    def train(library: str, datasets: Any, loss: Callable[[Any, Any], Any], path: Path = bert, **settings: Any) -> Any:
        st = importlib.import_module(library)
        model = st.SentenceTransformer(str(path), device="cpu")
        args = st.SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / library), report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
            logging_steps=1, seed=5, dataloader_pin_memory=False,
            **{"per_device_train_batch_size": 8, "per_device_eval_batch_size": 8, "num_train_epochs": 2,
               "learning_rate": 1e-3, **settings},
        )  # fmt: skip
        trainer = st.SentenceTransformerTrainer(
            model=model,
            args=args,
            train_dataset=datasets,
            eval_dataset=datasets,
            loss=loss(importlib.import_module(LOSSES[library]), model),
        )
        trainer.train()
        history = trainer.state.log_history
        train_losses = [entry["loss"] for entry in history if "loss" in entry]
        eval_losses = [v for entry in history for k, v in entry.items() if k.startswith("eval") and k.endswith("loss")]
        return train_losses, eval_losses, [p.detach() for p in model.parameters() if p.grad is None and p.requires_grad]

    return train


def assert_equal(run: Run, datasets: Callable[[], Any], loss: Callable[[Any, Any], Any], **settings: Any) -> None:
    ours, theirs = (run(library, datasets(), loss, **settings) for library in LIBRARIES)
    assert len(ours[0]) > 3
    assert ours[0] == pytest.approx(theirs[0], abs=2e-4)
    assert ours[1] == pytest.approx(theirs[1], abs=2e-4)


@pytest.mark.parametrize("sampler", ["batch_sampler", "no_duplicates", "no_duplicates_hashed"])
def test_each_sampler(run: Run, pairs: Pairs, sampler: str) -> None:
    def data() -> Dataset:
        return pairs(50, extra="negative")

    assert_equal(
        run, data, lambda ls, m: ls.MultipleNegativesRankingLoss(m), batch_sampler=sampler, eval_strategy="epoch"
    )


def test_accumulation_warmup_and_a_last_batch_that_is_dropped(run: Run, pairs: Pairs) -> None:
    settings = {
        "gradient_accumulation_steps": 2,
        "warmup_ratio": 0.25,
        "dataloader_drop_last": True,
        "num_train_epochs": 3,
    }
    assert_equal(run, lambda: pairs(50, extra="score"), lambda ls, m: ls.CoSENTLoss(m), **settings)


def test_matryoshka_over_cached_with_prompts_and_fractions_of_steps(run: Run, pairs: Pairs) -> None:
    def loss(ls: Any, m: Any) -> Any:
        return ls.MatryoshkaLoss(m, ls.CachedMultipleNegativesRankingLoss(m, mini_batch_size=4), [32, 16, 8])

    settings = {"prompts": {"anchor": "a: ", "positive": "b: "}, "eval_strategy": "steps", "eval_steps": 0.25}
    assert_equal(run, lambda: pairs(40), loss, batch_sampler="no_duplicates", **settings)


@pytest.mark.parametrize("several", ["proportional", "round_robin"])
@pytest.mark.parametrize("sampler", ["batch_sampler", "no_duplicates"])
def test_several_datasets(run: Run, pairs: Pairs, several: str, sampler: str) -> None:
    def data() -> dict[str, Dataset]:
        return {"ranked": pairs(40), "scored": pairs(20, seed=1, extra="score")}

    def loss(ls: Any, m: Any) -> dict[str, Any]:
        return {"ranked": ls.MultipleNegativesRankingLoss(m), "scored": ls.CosineSimilarityLoss(m)}

    settings = {"multi_dataset_batch_sampler": several, "batch_sampler": sampler, "eval_strategy": "epoch"}
    assert_equal(run, data, loss, **settings)


def test_rates_by_name_and_weight_decay(run: Run, pairs: Pairs) -> None:
    settings = {"learning_rate_mapping": {"embeddings": 5e-3}, "weight_decay": 0.1}
    assert_equal(run, lambda: pairs(40), lambda ls, m: ls.MultipleNegativesRankingLoss(m), **settings)


class Script(torch.nn.Module):
    """A loss written for Sentence Transformers."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sentence_features: Any, labels: Any) -> torch.Tensor:
        first, second = (self.model(features)["sentence_embedding"] for features in sentence_features)
        return (first - second).square().mean()


def test_a_loss_written_for_sentence_transformers(run: Run, pairs: Pairs) -> None:
    assert_equal(run, lambda: pairs(40), lambda ls, m: Script(m))


@pytest.mark.parametrize("sampler", ["no_duplicates", "no_duplicates_hashed"])
def test_page_images_that_recur(run: Run, pages: Pairs, clip: Path, sampler: str) -> None:
    def loss(ls: Any, m: Any) -> Any:
        return ls.MatryoshkaLoss(m, ls.CachedMultipleNegativesRankingLoss(m, mini_batch_size=2), [16, 8])

    settings = {"path": clip, "per_device_train_batch_size": 4, "num_train_epochs": 3, "batch_sampler": sampler}
    assert_equal(run, lambda: pages(same=(1, 4, 7, 8)), loss, **settings)


def test_pages_through_a_vision_language_model(run: Run, pages: Pairs, tiny_qwen3_vl: Path) -> None:
    def loss(ls: Any, m: Any) -> Any:
        return ls.MatryoshkaLoss(m, ls.CachedMultipleNegativesRankingLoss(m, mini_batch_size=1), [32, 16])

    settings = {"path": tiny_qwen3_vl, "per_device_train_batch_size": 3, "num_train_epochs": 1, "learning_rate": 1e-4}
    assert_equal(run, pages, loss, batch_sampler="no_duplicates", eval_strategy="steps", eval_steps=0.5, **settings)


@pytest.mark.parametrize("name", ["SentenceTransformerTrainer"])
def test_constructors_take_the_same_arguments(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(importlib.import_module(lib), name)).parameters for lib in LIBRARIES)
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


@pytest.mark.parametrize(
    "method", ["train", "evaluate", "compute_loss", "get_batch_sampler", "get_multi_dataset_batch_sampler"]
)
def test_methods_take_the_same_arguments(method: str) -> None:
    ours, theirs = (
        inspect.signature(getattr(importlib.import_module(lib).SentenceTransformerTrainer, method)).parameters
        for lib in LIBRARIES
    )
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


def test_the_old_path_of_the_arguments() -> None:
    from sentence_transformers.sentence_transformer import training_args as theirs

    from omnitune import training_args as ours

    names = {"BatchSamplers", "MultiDatasetBatchSamplers", "SentenceTransformerTrainingArguments"}
    assert names == set(ours.__all__) and all(hasattr(theirs, name) for name in names)
