"""Tiny trainings, for real: they learn, log, sample, refuse and skip as they say."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from datasets import Dataset, DatasetDict
from torch import Tensor, nn
from transformers import TrainingArguments

from omnitune import SentenceTransformer, losses
from omnitune.data.columns import RoundRobinStreams, StreamRows
from omnitune.data.samplers import DefaultBatchSampler
from omnitune.errors import DatasetError, InputError
from omnitune.evaluation import BaseEvaluator
from omnitune.training.trainer import SentenceTransformerTrainer as Trainer


def logged(trainer: Any) -> list[float]:
    """The training losses that were logged, in order."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


CHECKPOINTING = next(  # transformers 5.20 has the older name alone
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)
Pairs = Callable[..., Dataset]
Arguments = Callable[..., Any]


@pytest.fixture
def model(bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(bert), device="cpu")


class Count(BaseEvaluator):
    """Counts its calls; the score falls after the second."""

    def __init__(self, name: str = "count") -> None:
        super().__init__()
        self.name = name
        self.calls: list[int] = []
        self.primary_metric = f"{name}_score"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        self.calls.append(steps)
        return {f"{self.name}_score": float(-abs(steps - 4))}


def test_it_learns_and_says_how_many_negatives_a_query_sees(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "omnitune")
    trainer = Trainer(
        model=model,
        args=arguments(num_train_epochs=6, learning_rate=5e-3, batch_sampler="no_duplicates"),
        train_dataset=pairs(64),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    found = logged(trainer)
    assert sum(found[-4:]) < 0.7 * sum(found[:4])
    line = "Each query sees 7 negatives (batch of 8, columns anchor, positive)."
    assert trainer.opening_lines == [line] and line in caplog.text


def test_accumulation_adds_no_negatives_and_says_so(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, caplog: pytest.LogCaptureFixture
) -> None:
    loss = losses.MultipleNegativesRankingLoss(model)
    args = arguments(gradient_accumulation_steps=3, max_steps=1)
    Trainer(model=model, args=args, train_dataset=pairs(extra="negative"), loss=loss).train()
    assert "gradient_accumulation_steps=3 adds no negatives: each query still sees 15" in caplog.text


def test_accumulated_gradients_are_those_of_one_batch(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    found = []
    for settings in (
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    ):
        model = SentenceTransformer(str(bert), device="cpu")
        args = arguments(max_steps=3, optim="sgd", learning_rate=0.1, **settings)
        trainer = Trainer(
            model=model, args=args, train_dataset=pairs(extra="score"), loss=losses.CosineSimilarityLoss(model)
        )
        trainer.train()
        found.append((logged(trainer), next(model.parameters()).detach().clone()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=0)


def test_scores_reach_the_default_loss(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    trainer = Trainer(model=model, args=arguments(), train_dataset=pairs(extra="score"))
    trainer.train()
    assert isinstance(trainer.loss, losses.CoSENTLoss) and len(logged(trainer)) == 6


class PlainContrast(nn.Module):
    """A loss written for Sentence Transformers' call: ready features in, `self.model` called by itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, sentence_features: list[dict[str, Tensor]], labels: Tensor | None) -> Tensor:
        first, second = (
            nn.functional.normalize(self.model(features)["sentence_embedding"], dim=-1)
            for features in sentence_features
        )
        scores = first @ second.T * self.scale
        return nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def test_a_plain_loss_trains_with_its_own_parameters(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    trainer = Trainer(model=model, args=arguments(learning_rate=5e-3), train_dataset=pairs(), loss=PlainContrast)
    before = {name: p.detach().clone() for name, p in trainer.loss.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.loss.named_parameters() if not torch.equal(p, before[name])}
    assert "scale" in moved and any(name.startswith("model.") for name in moved)
    assert all(p.grad is None for p in trainer.loss.parameters())


def test_a_plain_loss_equals_ours(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    found = []
    for make in (lambda m: losses.MultipleNegativesRankingLoss(m, scale=5.0), PlainContrast):
        model = SentenceTransformer(str(bert), device="cpu")
        args = arguments(learning_rate_mapping={"^scale$": 0.0} if make is PlainContrast else {})
        trainer = Trainer(model=model, args=args, train_dataset=pairs(), loss=make)
        trainer.train()
        found.append(logged(trainer))
    assert found[0] == pytest.approx(found[1], abs=2e-4)


class Parts(losses.Loss):
    def objective(self, embeddings: Any, labels: Tensor | None) -> dict[str, Tensor]:
        size = embeddings[0].values.square().mean()
        return {"near": size, "far": 2 * size}


def test_named_parts_are_logged_and_add_up(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    args = arguments(eval_strategy="epoch", logging_steps=3)
    trainer = Trainer(model=model, args=args, train_dataset=pairs(), eval_dataset=pairs(16, seed=1), loss=Parts(model))
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    assert entry["near"] + entry["far"] == pytest.approx(entry["loss"], abs=3e-4)
    entry = next(e for e in trainer.state.log_history if "eval_loss" in e)
    assert entry["eval_near"] + entry["eval_far"] == pytest.approx(entry["eval_loss"], abs=3e-4)


@pytest.mark.parametrize("sampler", ["round_robin", "proportional"])
def test_several_datasets_with_a_loss_each(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, sampler: str
) -> None:
    train = {"ranked": pairs(32), "scored": pairs(16, seed=1, extra="score")}
    seen: list[tuple[str | None, bool]] = []

    class Spy(losses.CoSENTLoss):
        def targets(self, columns: Any, labels: Any) -> Any:
            seen.append((columns[0].dataset, labels is not None))
            return super().targets(columns, labels)

    trainer = Trainer(
        model=model,
        args=arguments(multi_dataset_batch_sampler=sampler, eval_strategy="epoch", num_train_epochs=2),
        train_dataset=train,
        eval_dataset=train,
        loss={"ranked": losses.MultipleNegativesRankingLoss, "scored": Spy(model)},
        evaluator=(count := Count()),
    )
    trainer.train()
    assert set(seen) == {("scored", True)}
    assert trainer.state.global_step == 2 * {"round_robin": 4, "proportional": 6}[sampler]
    assert len(count.calls) == 2
    keys = set().union(*trainer.state.log_history)
    assert {"eval_ranked_loss", "eval_scored_loss", "eval_count_score"} <= keys


def test_evaluating_other_datasets_keeps_their_names(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    loss = {"ranked": losses.MultipleNegativesRankingLoss(model), "scored": losses.CoSENTLoss(model)}
    train = DatasetDict({"ranked": pairs(32), "scored": pairs(16, extra="score")})
    trainer = Trainer(model=model, args=arguments(), train_dataset=train, loss=loss)
    assert {"eval_ranked_loss", "eval_scored_loss"} <= trainer.evaluate(train).keys()
    assert train["scored"].column_names == ["anchor", "positive", "score"]


def test_workers_read_for_training_and_evaluation(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    args = arguments(
        dataloader_num_workers=1, dataloader_persistent_workers=True, eval_strategy="epoch", num_train_epochs=2
    )
    data = {"a": pairs(16), "b": pairs(16, seed=1)}
    loss = losses.MultipleNegativesRankingLoss(model)
    trainer = Trainer(model=model, args=args, train_dataset=data, eval_dataset=data, loss=loss)
    trainer.train()
    assert len(logged(trainer)) == 8
    assert trainer.get_eval_dataloader("a") is trainer.get_eval_dataloader("a") is not trainer.get_eval_dataloader("b")


@pytest.mark.parametrize("settings", [pytest.param({CHECKPOINTING: True}, marks=pytest.mark.slow), {"bf16": True}])
def test_settings_of_the_forward(bert: Path, pairs: Pairs, arguments: Arguments, settings: dict[str, bool]) -> None:
    found = []
    for changes in ({}, settings):
        model = SentenceTransformer(str(bert), device="cpu")
        trainer = Trainer(
            model=model, args=arguments(**changes), train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss
        )
        trainer.train()
        found.append(logged(trainer))
    assert found[1] == pytest.approx(found[0], abs=0.1 if "bf16" in settings else 1e-4)
    assert (found[0] == found[1]) == ("bf16" not in settings)


def test_opening_lines_are_shown_above_the_bar(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = losses.MultipleNegativesRankingLoss(model)
    Trainer(model=model, args=arguments(max_steps=1, disable_tqdm=False), train_dataset=pairs(), loss=loss).train()
    assert "Each query sees 7 negatives" in capsys.readouterr().err


def test_what_has_no_effect_is_said(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(train_sampling_strategy="group_by_length")
    Trainer(model=model, args=args, train_dataset=pairs(), loss=losses.CoSENTLoss, compute_metrics=lambda p: {})
    assert "compute_metrics: evaluators give metrics; the argument has no effect." in caplog.text
    assert "train_sampling_strategy: batch_sampler says how rows are sampled" in caplog.text


def test_a_card_on_demand(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    trainer = Trainer(model=model, args=arguments(), train_dataset=pairs(), loss=losses.CoSENTLoss)
    trainer.create_model_card(language="de", license="mit", tags="manuals", model_name="Pages")
    text = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert all(part in text for part in ("language:\n- de", "license: mit", "- manuals", "# Pages"))


def test_a_stream_trains(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    loss = losses.MultipleNegativesRankingLoss(model)
    trainer = Trainer(model=model, args=arguments(max_steps=4), train_dataset=pairs().to_iterable_dataset(), loss=loss)
    trainer.train()
    assert len(logged(trainer)) == 4


def test_streams_take_turns(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    model = SentenceTransformer(str(bert), device="cpu")
    streams = {
        "plain": pairs(40).to_iterable_dataset(),
        "scored": pairs(24, seed=1, extra="score").to_iterable_dataset().shuffle(seed=3),
    }
    evals = {name: stream.take(10) for name, stream in streams.items()}
    trainer = Trainer(
        model=model,
        args=arguments(max_steps=5, multi_dataset_batch_sampler="round_robin", prompts={"scored": "s: "}),
        train_dataset=streams,
        eval_dataset=evals,
        loss={"plain": losses.MultipleNegativesRankingLoss(model), "scored": losses.CoSENTLoss(model)},
    )
    batches = list(trainer.get_train_dataloader())
    # The scored stream ends after three batches, and with it the turns.
    assert [batch["dataset"] for batch in batches] == ["plain", "scored"] * 3
    assert [batch["columns"][0].prompt for batch in batches[:2]] == [None, "s: "]
    assert batches[2]["columns"][0].items == pairs(40)["anchor"][8:16]
    assert sorted(item for b in batches[1::2] for item in b["columns"][0].items) == sorted(pairs(24, seed=1)["anchor"])
    trainer.train()
    assert len(logged(trainer)) == 5
    assert {"eval_plain_loss", "eval_scored_loss"} <= trainer.evaluate().keys()


def test_ranks_take_turns_at_batches_of_streams(pairs: Pairs) -> None:
    streams = [StreamRows(pairs(20, seed=i).to_iterable_dataset(), str(i)) for i in range(2)]
    both = RoundRobinStreams(streams, batch_size=4, drop_last=True)
    ranks = [list(IterableDatasetShard(both, batch_size=1, num_processes=2, process_index=i)) for i in range(2)]
    assert [[{row.dataset for row in rows} for rows in rank] for rank in ranks] == [[{"0"}] * 5, [{"1"}] * 5]


def test_streams_that_cannot_be_mixed(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    stream = pairs().to_iterable_dataset()
    loss = losses.MultipleNegativesRankingLoss(model)
    trainer = Trainer(model=model, args=arguments(max_steps=1), train_dataset={"a": stream, "b": stream}, loss=loss)
    with pytest.raises(DatasetError, match="expected ROUND_ROBIN for several streams, whose lengths are unknown"):
        trainer.train()
    with pytest.raises(DatasetError, match="to be all Datasets or all streams, got both"):
        Trainer(model=model, args=arguments(max_steps=1), train_dataset={"a": stream, "b": pairs()}, loss=loss)


def test_only_an_evaluator_evaluates(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    loss = losses.MultipleNegativesRankingLoss(model)
    args = arguments(eval_strategy="steps", eval_steps=3)
    evaluators = [Count("a"), Count("b")]
    trainer = Trainer(model=model, args=args, train_dataset=pairs(), loss=loss, evaluator=evaluators)
    trainer.train()
    assert evaluators[0].calls == evaluators[1].calls == [3, 6]
    assert trainer.evaluate()["eval_b_score"] == -2.0


def test_prompts_and_routes_reach_the_columns(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    seen: list[Any] = []

    class Spy(losses.MultipleNegativesRankingLoss):
        def embed(self, columns: Any, engine: Any) -> Any:
            seen.extend((c.name, c.prompt, c.role) for c in columns)
            return super().embed(columns, engine)

    args = arguments(max_steps=1, prompts={"anchor": "a: "}, router_mapping={"positive": "document"})
    Trainer(model=model, args=args, train_dataset=pairs(), loss=Spy(model)).train()
    assert seen == [("anchor", "a: ", None), ("positive", None, "document")]


def test_a_sampler_class_of_ones_own(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    made: list[Any] = []

    class InOrder(DefaultBatchSampler):
        def __init__(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
            made.append(dataset.column_names)
            super().__init__(range(len(dataset)), *args, **kwargs)

    trainer = Trainer(
        model=model,
        args=arguments(batch_sampler=InOrder),
        train_dataset=pairs(),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    assert made == []
    batch = next(iter(trainer.get_train_dataloader()))
    assert made == [["anchor", "positive"]] and batch["columns"][0].rows == list(range(8))


def test_rates_by_parameter_name(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    args = arguments(learning_rate_mapping={r"^model\.0\..*embeddings": 0.5})
    trainer = Trainer(model=model, args=args, train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss(model))
    groups = trainer.create_optimizer().param_groups
    by_rate = {rate: sum(p.numel() for g in groups if g["lr"] == rate for p in g["params"]) for rate in (0.5, 1e-3)}
    total = sum(p.numel() for p in model.parameters())
    embeddings = sum(p.numel() for n, p in model.named_parameters() if "embeddings" in n)
    assert by_rate == {0.5: embeddings, 1e-3: total - embeddings}


def test_a_rate_for_nothing_is_an_error(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    args = arguments(learning_rate_mapping={"decoder": 0.5})
    trainer = Trainer(model=model, args=args, train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss(model))
    with pytest.raises(InputError, match="learning_rate_mapping: expected patterns that find .* got 'decoder'"):
        trainer.create_optimizer()


def test_activation_memory_reaches_losses_that_did_not_choose(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    inner = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    inner.strategy.activation_memory = None
    loss = losses.MatryoshkaLoss(model, inner, [32, 16])
    Trainer(model=model, args=arguments(activation_memory=0, max_steps=2), train_dataset=pairs(), loss=loss).train()
    assert inner.strategy.activation_memory == 0 and inner.strategy.last_kept == 0 and inner.strategy.last_replayed > 0
    chosen = losses.MultipleNegativesRankingLoss(model)
    chosen.strategy.activation_memory = 0.5
    Trainer(model=model, args=arguments(activation_memory=0), train_dataset=pairs(), loss=chosen)
    assert chosen.strategy.activation_memory == 0.5


def test_a_loss_of_another_model_takes_the_trainers(
    bert: Path, model: SentenceTransformer, pairs: Pairs, arguments: Arguments, caplog: pytest.LogCaptureFixture
) -> None:
    other = SentenceTransformer(str(bert), device="cpu")
    loss = losses.MatryoshkaLoss(other, losses.MultipleNegativesRankingLoss(other), [32])
    trainer = Trainer(model=model, args=arguments(), train_dataset=pairs(), loss=loss)
    assert trainer.loss.model is model and trainer.loss.loss.model is model
    assert "held another model" in caplog.text


def test_model_init_makes_a_model_for_every_run(bert: Path, pairs: Pairs, arguments: Arguments) -> None:
    made = []

    def make() -> SentenceTransformer:
        made.append(SentenceTransformer(str(bert), device="cpu"))
        return made[-1]

    trainer = Trainer(
        model_init=make, args=arguments(), train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss
    )
    trainer.train()
    assert len(made) == 2 and trainer.model is made[1] and trainer.loss.model is made[1]
    assert not torch.equal(next(made[0].parameters()), next(made[1].parameters()))


class TestBadItems:
    @pytest.fixture
    def damaged(self, pairs: Pairs) -> Dataset:
        rows = pairs(16).to_dict()
        rows["positive"][5] = None
        return Dataset.from_dict(rows)

    def test_raise_before_training(self, model: SentenceTransformer, damaged: Dataset, arguments: Arguments) -> None:
        trainer = Trainer(
            model=model,
            args=arguments(),
            train_dataset={"faq": damaged},
            loss=losses.MultipleNegativesRankingLoss(model),
        )
        with pytest.raises(DatasetError, match=r"dataset 'faq', row 5, column 'positive': missing \(None\)"):
            trainer.train()
        assert trainer.state.global_step == 0

    def test_skip_and_list(self, model: SentenceTransformer, damaged: Dataset, arguments: Arguments) -> None:
        trainer = Trainer(
            model=model,
            args=arguments(on_bad_item="skip", batch_sampler="no_duplicates"),
            train_dataset=damaged,
            eval_dataset=damaged,
            loss=losses.MultipleNegativesRankingLoss(model),
        )
        trainer.train()
        assert [str(item) for item in trainer.skipped_items] == ["row 5, column 'positive': missing (None)"]
        rows = sorted(row for batch in trainer.get_train_dataloader() for row in batch["columns"][0].rows)
        assert rows == [row for row in range(16) if row != 5]
        listed = [entry["skipped_items"] for entry in trainer.state.log_history if "skipped_items" in entry]
        assert listed == [[str(item) for item in trainer.skipped_items]]
        assert model.model_card_data.training.skipped == [str(item) for item in trainer.skipped_items]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_dataset": [1, 2]}, "train_dataset: expected a Dataset"),
        (
            {"train_dataset": Dataset.from_dict({"dataset_name": ["a"]})},
            "train_dataset: expected column names other than",
        ),
        (
            {"loss": {"a": losses.CoSENTLoss}, "train_dataset": {"b": Dataset.from_dict({"x": ["y"]})}},
            "got none for \\['b'\\]",
        ),
        (
            {
                "loss": {"a": losses.CoSENTLoss, "b": losses.CoSENTLoss, "B": losses.CoSENTLoss},
                "train_dataset": {"a": Dataset.from_dict({"x": ["y"]})},
                "eval_dataset": {"b": Dataset.from_dict({"x": ["y"]})},
            },
            "loss: expected losses for the datasets \\['a', 'b'\\] alone, got some for \\['B'\\] too",
        ),
        ({"model": None}, "model: expected a model, or model_init"),
    ],
)
def test_arguments_that_cannot_be(
    model: SentenceTransformer, arguments: Arguments, changes: dict[str, Any], message: str
) -> None:
    settings = {"model": model, "args": arguments(), "train_dataset": None, "loss": losses.CoSENTLoss, **changes}
    with pytest.raises((InputError, DatasetError), match=message):
        Trainer(**settings)


def test_evaluating_with_nothing_to_evaluate(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    with pytest.raises(InputError, match="eval_strategy: expected an eval_dataset or an evaluator for 'epoch'"):
        Trainer(model=model, args=arguments(eval_strategy="epoch"), train_dataset=pairs(), loss=losses.CoSENTLoss)


def test_arguments_of_another_kind(model: SentenceTransformer, pairs: Pairs, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    args = TrainingArguments(output_dir=str(tmp_path), report_to=[])
    with pytest.raises(InputError, match="args: expected SentenceTransformerTrainingArguments, got TrainingArguments"):
        Trainer(model=model, args=args, train_dataset=pairs())


def test_the_card_tells_of_the_run(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, tmp_path: Path
) -> None:
    trainer = Trainer(
        model=model, args=arguments(), train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss(model)
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    text = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "loss:MultipleNegativesRankingLoss",
        "Rows: 48",
        "`anchor`, `positive`",
        "`learning_rate`: 0.001",
        "Training Loss",
    ):
        assert part in text, part


class TestPages:
    """Images in the dataset: read as bytes, compared by content, checked once, named when broken."""

    @pytest.fixture
    def model(self, clip: Path) -> SentenceTransformer:
        return SentenceTransformer(str(clip), device="cpu")

    def test_training(self, model: SentenceTransformer, pages: Any, arguments: Arguments, monkeypatch: Any) -> None:
        monkeypatch.setattr(
            datasets.Image, "decode_example", lambda *a, **k: pytest.fail("the dataset decoded an image")
        )
        args = arguments(per_device_train_batch_size=4, batch_sampler="no_duplicates", num_train_epochs=8)
        data = pages(same=(1, 4, 7))
        trainer = Trainer(model=model, args=args, train_dataset=data, loss=losses.MultipleNegativesRankingLoss(model))
        for batch in trainer.get_train_dataloader():
            rows = batch["columns"][1].rows
            assert len({1, 4, 7} & set(rows)) <= 1 and isinstance(batch["columns"][1].items[0]["bytes"], bytes)
        trainer.train()
        assert sum(logged(trainer)[-3:]) < sum(logged(trainer)[:3])

    def test_a_broken_image_stops_the_run(self, model: SentenceTransformer, pages: Any, arguments: Arguments) -> None:
        trainer = Trainer(
            model=model, args=arguments(), train_dataset={"manuals": pages(bad=3)}, loss=losses.CoSENTLoss
        )
        with pytest.raises(DatasetError, match=r"1 item\(s\).*\n.*dataset 'manuals', row 3, column 'page': .+"):
            trainer.train()

    def test_a_broken_image_in_evaluation_stops_it_too(
        self, model: SentenceTransformer, pages: Any, arguments: Arguments
    ) -> None:
        loss = losses.MultipleNegativesRankingLoss(model)
        trainer = Trainer(model=model, args=arguments(), train_dataset=pages(), eval_dataset=pages(bad=9), loss=loss)
        with pytest.raises(DatasetError, match="row 9, column 'page'"):
            trainer.train()

    def test_it_can_be_skipped(self, model: SentenceTransformer, pages: Any, arguments: Arguments) -> None:
        args = arguments(on_bad_item="skip", per_device_train_batch_size=4, batch_sampler="no_duplicates")
        data = {"a": pages(bad=3), "b": pages()}
        trainer = Trainer(model=model, args=args, train_dataset=data, loss=losses.MultipleNegativesRankingLoss(model))
        trainer.train()
        assert [(item.dataset, item.row) for item in trainer.skipped_items] == [("a", 3)]
        seen = [(b["dataset"], row) for b in trainer.get_train_dataloader() for row in b["columns"][0].rows]
        assert sorted(seen) == [("a", i) for i in range(12) if i != 3] + [("b", i) for i in range(12)]


def test_an_empty_dataset_is_named(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    with pytest.raises(DatasetError, match="train_dataset 'b': expected rows, got an empty dataset"):
        Trainer(model=model, args=arguments(), train_dataset={"a": pairs(8), "b": pairs(8).select([])})


def test_a_dataset_with_nothing_left_is_named(model: SentenceTransformer, pairs: Pairs, arguments: Arguments) -> None:
    rows = Dataset.from_dict({"anchor": ["a", None], "positive": [None, "b"]})
    loss = losses.MultipleNegativesRankingLoss(model)
    trainer = Trainer(model=model, args=arguments(on_bad_item="skip"), train_dataset=rows, loss=loss)
    with pytest.raises(DatasetError, match="every row has an item that cannot be encoded, the first of them row 0"):
        trainer.train()


def test_names_that_say_nothing_are_named(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments, caplog: pytest.LogCaptureFixture
) -> None:
    loss = losses.MultipleNegativesRankingLoss(model)
    first, second = pairs(8).column_names[:2]
    mappings = {
        "prompts": {"a": {first: "q: ", "passage": "p: "}},
        "router_mapping": {second: "document", "b": "query"},
    }
    Trainer(model=model, args=arguments(**mappings), train_dataset={"a": pairs(8)}, loss=loss).train()
    said = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    names = sorted({"a", *pairs(8).column_names})
    assert said == [
        f"prompts: ['passage'] have no effect; the names are {names}.",
        f"router_mapping: ['b'] have no effect; the names are {names}.",
    ]


def test_a_run_whose_gradients_are_no_numbers_stops(
    model: SentenceTransformer, pairs: Pairs, arguments: Arguments
) -> None:
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    loss = losses.MultipleNegativesRankingLoss(model)
    trainer = Trainer(model=model, args=arguments(num_train_epochs=2), train_dataset=pairs(32), loss=loss)
    with pytest.raises(InputError, match="learning_rate=.*expected gradients that are numbers, got nan at step 1,"):
        trainer.train()
