"""Training cross encoders: the same losses as ST's trainer, lists, pages, prompts by dataset, resuming, errors."""

import importlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Image, List
from torch import nn

from omnitune import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from omnitune.cross_encoder import losses
from omnitune.cross_encoder.evaluation import CrossEncoderCorrelationEvaluator
from omnitune.errors import DatasetError, InputError
from omnitune.modules import LogitScore, Transformer

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 1e-3,
    "num_train_epochs": 1,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "save_strategy": "no",
    "dataloader_pin_memory": False,
    "seed": 12,
}


def dataset(kind: str, rows: int = 40, seed: int = 0) -> Dataset:
    draw = random.Random(seed)

    def text(longest: int = 7) -> str:
        return " ".join(f"word{draw.randrange(60)}" for _ in range(draw.randint(1, longest)))

    columns: dict[str, list[Any]] = {"query": [text() for _ in range(rows)]}
    if kind == "list":
        counts = [1 + i % 4 for i in range(rows)]
        columns["documents"] = [[text() for _ in range(count)] for count in counts]
        columns["labels"] = [[float(draw.randrange(3)) for _ in range(count)] for count in counts]
        return Dataset.from_dict(columns)
    columns["document"] = [text() for _ in range(rows)]
    if kind == "margin":
        columns["negative"] = [text() for _ in range(rows)]
        columns["score"] = [draw.random() for _ in range(rows)]
    elif kind != "pair":
        columns["label"] = [draw.randrange(3) if kind == "class" else float(draw.randrange(2)) for _ in range(rows)]
    return Dataset.from_dict(columns)


def trained(
    library: str, path: Path, data: Any, out: Path, *, labels: int = 1, loss: Any = None, **changes: Any
) -> Any:
    """Losses, evaluation losses and the model of a run with one library."""
    family = importlib.import_module(f"{library}.cross_encoder")
    torch.manual_seed(0)
    model = family.CrossEncoder(str(path), num_labels=labels, device="cpu")
    args = family.CrossEncoderTrainingArguments(output_dir=str(out / library), **{**SETTINGS, **changes})
    made = None if loss is None else loss(importlib.import_module(f"{library}.cross_encoder.losses"), model)
    trainer = family.CrossEncoderTrainer(model, args, train_dataset=data, eval_dataset=data, loss=made)
    trainer.train()
    trainer.evaluate()
    history = trainer.state.log_history
    steps = [entry["loss"] for entry in history if "loss" in entry]
    evaluations = {k: v for entry in history for k, v in entry.items() if k.startswith("eval") and k.endswith("_loss")}
    return steps, evaluations, model


CASES: dict[str, tuple[str, Callable[[Any, Any], Any] | None, int]] = {
    "default of one": ("binary", None, 1),
    "default of three": ("class", None, 3),
    "margins": ("margin", lambda library, model: library.MarginMSELoss(model), 1),
    "negatives": ("pair", lambda library, model: library.MultipleNegativesRankingLoss(model), 1),
    "cached": ("pair", lambda lib, model: lib.CachedMultipleNegativesRankingLoss(model, mini_batch_size=4), 1),
    "lists": ("list", lambda library, model: library.ListNetLoss(model, mini_batch_size=8), 1),
    "lambda": ("list", lambda library, model: library.LambdaLoss(model), 1),
}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_the_same_losses_as_sentence_transformers(bert: Path, tmp_path: Path, case: str) -> None:
    pytest.importorskip("sentence_transformers")
    kind, loss, labels = CASES[case]
    ours, theirs = (
        trained(library, bert, dataset(kind), tmp_path, loss=loss, labels=labels, prompts="judge ")
        for library in ("omnitune", "sentence_transformers")
    )
    assert len(ours[0]) == 5
    assert ours[0] == pytest.approx(theirs[0], abs=2e-4)
    assert ours[1] == pytest.approx(theirs[1], abs=2e-4)
    for mine, reference in zip(ours[2].parameters(), theirs[2].parameters(), strict=True):
        # The gradient of the one bias of the scores is 0 where only their differences count; Adam then steps at random.
        torch.testing.assert_close(mine, reference, atol=1e-2 if mine.numel() == 1 else 2e-4, rtol=1e-3)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_datasets_with_prompts_and_losses_of_their_own(bert: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    data = {"graded": dataset("list"), "judged": dataset("binary", seed=1)}

    def loss(library: Any, model: Any) -> Any:
        return {"graded": library.ListMLELoss(model), "judged": library.BinaryCrossEntropyLoss(model)}

    ours, theirs = (
        trained(lib, bert, data, tmp_path, loss=loss, prompts={"graded": "grade ", "judged": "judge "})
        for lib in ("omnitune", "sentence_transformers")
    )
    assert len(ours[0]) == 10
    assert ours[0] == pytest.approx(theirs[0], abs=2e-4)
    assert ours[1].keys() == theirs[1].keys() == {"eval_graded_loss", "eval_judged_loss"}
    assert ours[1] == pytest.approx(theirs[1], abs=2e-4)


def test_lists_of_page_images(tiny_qwen3_vl: Path, pages: Callable[..., Dataset], tmp_path: Path) -> None:
    found = pages()
    images = [row["bytes"] for row in found.cast_column("page", Image(decode=False))["page"]]
    lists = [[{"bytes": images[(i + j) % 12], "path": None} for j in range(2 + i % 2)] for i in range(12)]
    data = Dataset.from_dict(
        {"query": found["query"], "pages": lists, "labels": [[1.0] + [0.0] * (len(page) - 1) for page in lists]}
    ).cast_column("pages", List(Image()))
    torch.manual_seed(0)
    modules = [Transformer(str(tiny_qwen3_vl), transformer_task="any-to-any"), LogitScore(300, 301)]
    model = CrossEncoder(modules=modules, device="cpu")
    args = CrossEncoderTrainingArguments(str(tmp_path), **{**SETTINGS, "num_train_epochs": 3})
    trainer = CrossEncoderTrainer(model, args, train_dataset=data, loss=losses.ListNetLoss(model))
    trainer.train()
    steps = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == 6 and steps[-1] < steps[0]
    broken = [[{"bytes": b"no image", "path": None}, *page[1:]] if i == 3 else page for i, page in enumerate(lists)]
    bad = Dataset.from_dict({"query": found["query"], "pages": broken, "labels": data["labels"]})
    bad = bad.cast_column("pages", List(Image()))
    trainer = CrossEncoderTrainer(model, args, train_dataset=bad, loss=losses.ListNetLoss(model))
    with pytest.raises(DatasetError, match="row 3, column 'pages'"):
        trainer.train()


def test_a_run_resumes_and_keeps_the_best(bert: Path, tmp_path: Path) -> None:
    data = dataset("binary")
    pairs = list(zip(data["query"], data["document"], strict=True))
    evaluator = CrossEncoderCorrelationEvaluator(pairs, data["label"], name="own")

    def run(epochs: int, resume: bool) -> CrossEncoderTrainer:
        torch.manual_seed(0)
        model = CrossEncoder(str(bert), device="cpu")
        changes = {"save_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": epochs,
                   "lr_scheduler_type": "constant"}  # fmt: skip
        args = CrossEncoderTrainingArguments(str(tmp_path / str(resume)), **{**SETTINGS, **changes})
        trainer = CrossEncoderTrainer(model, args, train_dataset=data, evaluator=evaluator)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(2, False)
    (tmp_path / "True").mkdir()
    (tmp_path / "False" / "checkpoint-5").rename(tmp_path / "True" / "checkpoint-5")
    again = run(2, True)
    assert whole.state.log_history[-2]["eval_own_spearman"] == again.state.log_history[-2]["eval_own_spearman"]
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    card = (tmp_path / "True" / "checkpoint-10" / "README.md").read_text()
    assert "loss:BinaryCrossEntropyLoss" in card and "Cross Encoder Correlation" in card.replace(
        "CrossEncoder", "Cross Encoder"
    )


def test_a_loss_of_the_users_own_gets_raw_columns(bert: Path, tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self, model: CrossEncoder) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: list[list[str]], labels: torch.Tensor) -> torch.Tensor:
            scores = self.model(self.model.preprocess(list(zip(*inputs, strict=True))))["scores"]
            return nn.functional.binary_cross_entropy_with_logits(scores.view(-1), labels)

    own, built = (
        trained("omnitune", bert, dataset("binary"), tmp_path, loss=loss)[0]
        for loss in (lambda _, model: Own(model), lambda library, model: library.BinaryCrossEntropyLoss(model))
    )
    assert own == pytest.approx(built, abs=1e-5)


def test_negatives_are_said_at_the_start(bert: Path, tmp_path: Path) -> None:
    model = CrossEncoder(str(bert), device="cpu")
    args = CrossEncoderTrainingArguments(str(tmp_path), **SETTINGS)
    loss = losses.MultipleNegativesRankingLoss(model, num_negatives=3)
    trainer = CrossEncoderTrainer(model, args, train_dataset=dataset("pair", 8), loss=loss)
    trainer.train()
    assert trainer.opening_lines == ["Each query sees 3 negatives (batch of 8, columns query, document)."]


def test_prompts_and_routes_are_not_by_column(tmp_path: Path) -> None:
    by_column = {"pairs": {"query": "judge "}}
    for flag in ("prompts", "router_mapping"):
        with pytest.raises(InputError, match=f"{flag}: expected one for all columns, or one by dataset"):
            CrossEncoderTrainingArguments(str(tmp_path), **{**SETTINGS, flag: by_column})


def test_arguments_of_another_family_are_refused(bert: Path, arguments: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="args: expected CrossEncoderTrainingArguments, got SentenceTransformerTrain"):
        CrossEncoderTrainer(CrossEncoder(str(bert), device="cpu"), arguments(), train_dataset=dataset("binary"))
