"""Hooks that scripts override or call in Sentence Transformers' trainers: each works, or says what to use instead."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import Dataset
from transformers import Trainer as UpstreamTrainer
from transformers import TrainerCallback

from omnitune import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments, SentenceTransformer, losses
from omnitune.data.collator import Collator
from omnitune.errors import InputError
from omnitune.training.old_names import LEFT_OUT
from omnitune.training.trainer import SentenceTransformerTrainer as Trainer

Pairs = Callable[..., Dataset]
Arguments = Callable[..., Any]


@pytest.fixture
def model(bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(bert), device="cpu")


def logged(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def run(kind: type[Any], bert: Path, dataset: Dataset, args: Any, **options: Any) -> Any:
    """A run of a few steps from the same start."""
    own = SentenceTransformer(str(bert), device="cpu")
    trainer = kind(own, args, train_dataset=dataset, loss=losses.MultipleNegativesRankingLoss(own), **options)
    trainer.train()
    return trainer


class Collects(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        features, labels = self.collect_features(inputs)
        assert {"attention_mask", "input_ids", "token_type_ids"} <= features[0].keys()
        value = self.loss(features, labels)
        return (value, {}) if return_outputs else value


class CallsTheModel(Collects):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        features, _ = self.collect_features(inputs)
        made = [model(each)["sentence_embedding"] for each in features]
        return self.loss.compute_loss_from_embeddings(made, None)


class Swaps(Trainer):
    def collect_features(self, inputs: Any) -> Any:
        features, labels = super().collect_features(inputs)
        return features[::-1], labels


def test_collected_features_give_the_same_run(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    plain, collected, called = (
        logged(run(kind, bert, pairs(16), arguments())) for kind in (Trainer, Collects, CallsTheModel)
    )
    assert collected == plain and called == pytest.approx(plain, rel=1e-4)


def test_an_override_of_collect_features_is_called(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    swapped = pairs(16).select_columns(["positive", "anchor"])
    assert logged(run(Swaps, bert, pairs(16), arguments())) == logged(run(Trainer, bert, swapped, arguments()))


def test_a_batch_of_tensors_trains_too(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    tokens = SentenceTransformer(str(bert), device="cpu").preprocess

    class Tensors:
        valid_label_columns: ClassVar[list[str]] = ["label"]

        def __call__(self, rows: list[Any]) -> dict[str, Any]:
            columns = {name: tokens([row[name] for row in rows]) for name in ("anchor", "positive")}
            return {f"{name}_{key}": value for name, made in columns.items() for key, value in made.items()}

    plain = logged(run(Trainer, bert, pairs(16), arguments()))
    assert logged(run(Trainer, bert, pairs(16), arguments(), data_collator=Tensors())) == pytest.approx(plain, rel=1e-4)


def test_a_batch_without_columns_is_named(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    loss = losses.MultipleNegativesRankingLoss(model)
    trainer = Trainer(model, arguments(), train_dataset=pairs(8), loss=loss, data_collator=lambda rows: {"x": 1})
    with pytest.raises(InputError, match=r"data_collator: expected a batch with columns.*got \['x'\]"):
        trainer.train()


def test_a_reranker_collects_its_texts(bert: Path, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Looks(CrossEncoderTrainer):
        def collect_features(self, inputs: Any) -> Any:
            features, labels = super().collect_features(inputs)
            seen.append((list(map(list, features)), labels.tolist()))
            return features, labels

    args = CrossEncoderTrainingArguments(str(tmp_path), max_steps=1, report_to=[], save_strategy="no", use_cpu=True)
    rows = Dataset.from_dict({"query": ["word1"], "page": ["word2"], "label": [1.0]})
    Looks(CrossEncoder(str(bert), num_labels=1, device="cpu"), args, train_dataset=rows).train()
    assert seen == [([["word1"], ["word2"]], [1.0])]


def test_makers_of_collators_are_asked(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    class Lower(Collator):
        calls = 0

        def __call__(self, rows: Any) -> Any:
            Lower.calls += 1
            return super().__call__(rows)

    class ByClass(Trainer):
        data_collator_class = Lower

    class ByMethod(Trainer):
        def get_data_collator(self, model: Any, args: Any, processing_class: Any = None) -> Any:
            assert model is not None and args.prompts is None
            return Lower()

    for kind in (ByClass, ByMethod):
        run(kind, bert, pairs(8), arguments())
    assert Lower.calls == 2


def test_parts_of_a_loss_can_be_looked_at(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    class Parts(losses.Loss):
        def objective(self, embeddings: Any, labels: Any) -> Any:
            return {"near": embeddings[0].values.mean(), "far": embeddings[1].values.mean()}

    class Looks(Trainer):
        seen: ClassVar[list[str]] = []

        def track_loss_components(self, loss: Any) -> None:
            Looks.seen += loss
            super().track_loss_components(loss)

    Looks(model, arguments(max_steps=1), train_dataset=pairs(8), loss=Parts(model)).train()
    assert Looks.seen == ["near", "far"]


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_nothing_calls_is_refused(
    name: str, model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    instead = re.escape(LEFT_OUT[name])
    own = type("Own", (Trainer,), {name: lambda self, *args: None})
    with pytest.raises(InputError, match=rf"Own\.{name}: expected no override.*{instead}"):
        own(model, arguments(), train_dataset=pairs(8))


def test_each_name_left_out_says_what_to_use(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    trainer = Trainer(model, arguments(), train_dataset=pairs(8), loss=losses.MultipleNegativesRankingLoss(model))
    for name in LEFT_OUT:
        with pytest.raises(AttributeError, match="on purpose: "):
            getattr(trainer, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = trainer.nothing


def test_callbacks_get_the_models_tokenizer(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    given: list[Any] = []

    class Looks(TrainerCallback):  # type: ignore[misc]  # transformers has no types
        def on_train_begin(self, *args: Any, processing_class: Any = None, **kwargs: Any) -> None:
            given.append(processing_class)

    loss = losses.MultipleNegativesRankingLoss(model)
    trainer = Trainer(model, arguments(max_steps=1), train_dataset=pairs(8), loss=loss, callbacks=[Looks()])
    model.transformers_model.config.pad_token_id = 7
    trainer.train()
    assert given == [model.tokenizer] and trainer.processing_class is model.tokenizer
    assert model.transformers_model.config.pad_token_id == 7, "the tokenizer's special tokens stay out of it"


@pytest.mark.parity
def test_every_hook_of_the_rival_is_called_or_refused(
    bert: Path, pairs: Pairs, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one run calls of ST's trainer is called of ours too, or an override of it is refused."""
    theirs = pytest.importorskip("sentence_transformers").SentenceTransformerTrainer
    own = {name for kind in theirs.__mro__[:-2] for name in vars(kind) if inspect.isfunction(vars(kind)[name])}
    own -= {"__init__", "_push_from_checkpoint"}
    called: set[str] = set()

    def counting(name: str) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return getattr(super(counted, self), name)(*args, **kwargs)

        return call

    ours = {name for name in own if hasattr(Trainer, name)}
    counted = type("Counted", (Trainer,), {name: counting(name) for name in ours})
    rows = pairs(16)
    both = {"a": rows, "b": rows}
    args = arguments(
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="a_loss",
    )
    trainer = run(counted, bert, both, args, eval_dataset=both)
    trainer.train(resume_from_checkpoint=True)
    trainer.get_test_dataloader(rows)
    not_of_ours = {n for n in own - called if not hasattr(UpstreamTrainer, n)} - LEFT_OUT.keys()
    assert not_of_ours == {"track_loss_components", "get_default_loss"}, "called where they are needed"
