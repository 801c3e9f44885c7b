"""Runs that cannot end well stop in time: labels and gradients that are no numbers, items that cannot be read."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Sequence, Value

from omnitune import SentenceTransformer, losses
from omnitune.errors import DatasetError, InputError
from omnitune.evaluation import BaseEvaluator
from omnitune.training import feed, source
from omnitune.training.trainer import SentenceTransformerTrainer as Trainer

Pairs = Callable[..., Dataset]
Arguments = Callable[..., Any]


@pytest.fixture
def model(bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(bert), device="cpu")


class Broken(losses.CosineSimilarityLoss):
    """Gradients that are no numbers from the third step on; the loss itself is one."""

    steps = 0

    def objective(self, embeddings: Any, labels: Any) -> Any:
        self.steps += 1
        value = super().objective(embeddings, labels)
        gap = (embeddings[0].values - embeddings[0].values).sum()
        return value + torch.sqrt(gap.abs()) if self.steps >= 3 else value


def weights(model: SentenceTransformer) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {"logging_steps": 500},
        {"logging_strategy": "no"},
        {"logging_strategy": "no", "save_strategy": "steps", "save_steps": 1},
        {"logging_strategy": "epoch", "save_strategy": "epoch"},
        {"logging_strategy": "no", "max_grad_norm": 0.0},
        {"logging_strategy": "no", "gradient_accumulation_steps": 1, "logging_nan_inf_filter": False},
    ],
)
def test_gradients_that_are_no_numbers_stop_the_run_at_their_step(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, settings: dict[str, Any]
) -> None:
    args = arguments(**settings)
    trainer = Trainer(model=model, args=args, train_dataset=pairs(extra="score"), loss=Broken(model))
    with pytest.raises(InputError, match="expected gradients that are numbers, got nan at step 3"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert weights(model).isfinite().all()
    kept = sorted(path.name for path in Path(args.output_dir).glob("checkpoint-*"))
    assert kept == (["checkpoint-1", "checkpoint-2"] if settings.get("save_strategy") == "steps" else [])


def test_the_last_step_is_looked_at_too(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    args = arguments(logging_strategy="no", max_steps=3)
    trainer = Trainer(model=model, args=args, train_dataset=pairs(extra="score"), loss=Broken(model))
    with pytest.raises(InputError, match="got nan at step 3"):
        trainer.train()


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("label", [None, *[0.5] * 23], "row 0, column 'label': missing"),
        ("score", [*[0.5] * 23, math.nan], "row 23, column 'score': expected a finite number, got nan"),
        ("labels", [0.5, math.inf, *[0.5] * 22], "row 1, column 'labels': expected a finite number, got inf"),
        ("label", ["0.5"] * 24, "row 0, column 'label': expected a number or a list of numbers, got '0.5'"),
        ("scores", [[0.5, None], *[[0.5, 0.1]] * 23], "row 0, column 'scores': missing"),
        ("scores", [[0.5, 0.1]] * 23 + [[0.5, math.nan]], "row 23, column 'scores': expected a finite number"),
    ],
)
def test_labels_are_looked_at_before_training(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, column: str, values: list[Any], reason: str
) -> None:
    rows = pairs(24).add_column(column, values)
    trainer = Trainer(model=model, args=arguments(), train_dataset=rows, loss=losses.CosineSimilarityLoss(model))
    with pytest.raises(DatasetError) as error:
        trainer.train()
    assert reason in str(error.value) and trainer.state.global_step == 0


@pytest.mark.parametrize("shape", ["plain", "selected", "transformed"])
def test_rows_with_bad_labels_can_be_skipped(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, shape: str
) -> None:
    rows = pairs(24).add_column("label", [None, math.nan, *[0.5] * 22])
    if shape == "selected":
        rows = rows.select(range(1, 24))
    if shape == "transformed":
        rows = rows.with_transform(lambda batch: batch)
    trainer = Trainer(
        model=model, args=arguments(on_bad_item="skip"), train_dataset=rows, loss=losses.CosineSimilarityLoss(model)
    )
    trainer.train()
    assert [item.column for item in trainer.skipped_items] == ["label"] * (1 if shape == "selected" else 2)
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_a_bad_label_of_a_stream_is_named_by_its_own_row(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    rows = pairs(24).add_column("label", [*[0.5] * 22, None, 0.5]).to_iterable_dataset()
    args = arguments(max_steps=3)
    trainer = Trainer(model=model, args=args, train_dataset=rows, loss=losses.CosineSimilarityLoss(model))
    with pytest.raises(DatasetError, match=r"row 22, column 'label': missing"):
        trainer.train()


@pytest.mark.parametrize("first", [[], None])
def test_a_list_column_may_begin_with_an_empty_list(
    bert: Path, arguments: Arguments, first: Any, tmp_path: Path
) -> None:
    from omnitune import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments

    model = CrossEncoder(str(bert), num_labels=1, device="cpu")
    documents = [first, *[["word1", "word2"]] * 7]
    labels = [[], *[[1.0, 0.0]] * 7]
    features = Features(
        {"query": Value("string"), "docs": Sequence(Value("string")), "labels": Sequence(Value("float32"))}
    )
    rows = Dataset.from_dict({"query": ["word3"] * 8, "docs": documents, "labels": labels}, features=features)
    from omnitune.losses.cross_encoder import ListNetLoss

    args = CrossEncoderTrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True,
        save_strategy="no", dataloader_pin_memory=False, on_bad_item="skip",
    )  # fmt: skip
    CrossEncoderTrainer(model=model, args=args, train_dataset=rows, loss=ListNetLoss(model)).train()


def test_a_list_column_of_a_dense_model_may_begin_with_an_empty_list(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    rows = pairs(8).add_column("others", [[], *[["word1"]] * 7])
    trainer = Trainer(model=model, args=arguments(), train_dataset=rows, loss=losses.MSELoss)
    assert trainer._feed.keep_caches(rows) == []


@pytest.mark.parametrize(
    ("column", "values"),
    [("id", list(range(24))), ("similarity", [0.5] * 24), ("meta", [{"a": 1}] * 24), ("when", [[1, 2]] * 24)],
)
def test_columns_that_are_no_inputs_are_named_by_their_own_row_and_column(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, column: str, values: list[Any]
) -> None:
    rows = pairs(24).add_column(column, values)
    trainer = Trainer(
        model=model, args=arguments(), train_dataset={"faq": rows}, loss=losses.MultipleNegativesRankingLoss(model)
    )
    with pytest.raises(DatasetError) as error:
        trainer.train()
    said = str(error.value)
    assert f"dataset 'faq', row 0, column '{column}'" in said and f"remove_columns({column!r})" in said
    assert "'item'" not in said
    assert ("rename" in said) == (column != "meta")


class Loads:
    """Counts what the check loads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = source.load_through

        def load(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(source, "load_through", load)


class TestCheckedOnce:
    @pytest.fixture
    def model(self, clip: Path) -> SentenceTransformer:
        return SentenceTransformer(str(clip), device="cpu")

    def run(self, model: Any, rows: Dataset, args: Any, resume: bool = False) -> Trainer:
        loss = losses.MultipleNegativesRankingLoss(model)
        trainer = Trainer(model=model, args=args, train_dataset=rows, loss=loss)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    def test_a_resumed_run_does_not_load_everything_again(
        self, model: SentenceTransformer, pages: Any, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loads = Loads(monkeypatch)
        settings = {"save_strategy": "steps", "save_steps": 1, "on_bad_item": "skip", "per_device_train_batch_size": 4}
        first = self.run(model, pages(bad=3), arguments(max_steps=2, **settings))
        assert loads.count == 24 and [item.row for item in first.skipped_items] == [3]
        second = self.run(model, pages(bad=3), arguments(max_steps=4, **settings), resume=True)
        assert loads.count == 24 and second.skipped_items == first.skipped_items
        noted = Path(first.args.output_dir, feed.CHECKED)
        noted.write_text(noted.read_text()[:20])  # cut by a crash: the check is done again
        self.run(model, pages(bad=3), arguments(max_steps=5, **settings), resume=True)
        assert loads.count == 48
        assert isinstance(json.loads(noted.read_text()), dict)

    def test_a_new_run_looks_again(
        self, model: SentenceTransformer, pages: Any, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loads = Loads(monkeypatch)
        for count in (24, 48):
            self.run(model, pages(), arguments(max_steps=1, per_device_train_batch_size=4))
            assert loads.count == count

    def test_it_can_be_turned_off(
        self, model: SentenceTransformer, pages: Any, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loads = Loads(monkeypatch)
        self.run(model, pages(), arguments(max_steps=1, per_device_train_batch_size=4, check_items=False))
        assert loads.count == 0
        with pytest.raises(ValueError, match="row 3, column 'page'"):
            self.run(model, pages(bad=3), arguments(check_items=False))


class Rising(BaseEvaluator):
    """No number at first, then better and better."""

    def __init__(self) -> None:
        super().__init__()
        self.primary_metric = "quality"
        self.values = iter([math.nan, 0.2, 0.1, 0.3])

    def measure(self, model: Any) -> dict[str, float]:
        return {"quality": next(self.values)}


def test_a_metric_that_is_no_number_is_never_the_best(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    args = arguments(
        max_steps=4, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
        metric_for_best_model="quality", greater_is_better=True, load_best_model_at_end=True,
    )  # fmt: skip
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=pairs(),
        loss=losses.MultipleNegativesRankingLoss(model),
        evaluator=Rising(),
    )
    trainer.train()
    assert trainer.state.best_metric == 0.3 and trainer.state.best_global_step == 4
