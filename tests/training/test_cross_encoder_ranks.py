"""Two processes train a cross encoder as one does on the joined batch: losses, gradients, weights, evaluation."""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from fixtures.ranks import has_left, run_on_two_ranks

MODES = ("pointwise", "listwise", "cached")
ROWS, BATCH = 24, 6


def words(i: int) -> str:
    return " ".join(f"word{(i * step) % 60}" for step in (1, 7, 3)[: 1 + i % 3])


def rows(mode: str) -> dict[str, list[Any]]:
    """Lists are of different lengths, so that the ranks have different numbers of pairs."""
    queries = [words(i) for i in range(ROWS)]
    if mode == "pointwise":
        labels = [float(i % 2) for i in range(ROWS)]
        return {"query": queries, "document": [words(i + 30) for i in range(ROWS)], "label": labels}
    lists = [[words(i + 30 + j) for j in range(2 + i % 3)] for i in range(ROWS)]
    grades = [[float((i + j) % 3) for j in range(len(documents))] for i, documents in enumerate(lists)]
    return {"query": queries, "documents": lists, "labels": grades}


class Gradients(TrainerCallback):
    """Keeps the gradients of every step, as the optimizer gets them."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        self.steps.append([float(value) for g in found for value in (g.norm(), g.sum(), g.flatten()[0])])


def train(model_path: str, folder: Path, batch_size: int, mode: str) -> dict[str, Any]:
    """Four steps of two accumulated batches on every rank, with evaluations."""
    from omnitune import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from omnitune.cross_encoder import losses
    from omnitune.cross_encoder.evaluation import CrossEncoderCorrelationEvaluator
    from omnitune.losses import Strategy

    torch.manual_seed(0)
    model = CrossEncoder(model_path, num_labels=1, device="cpu")
    with torch.no_grad():
        model[0].model.classifier.weight.mul_(20)  # scores that differ give gradients that do
    made = {
        "pointwise": lambda: losses.BinaryCrossEntropyLoss(model),
        "listwise": lambda: losses.ListNetLoss(model),
        "cached": lambda: losses.ListMLELoss(model, mini_batch_size=2),
    }[mode]()
    if mode == "cached":
        made.strategy = Strategy(mini_batch_size=2, activation_memory=0)  # every mini-batch is replayed
    args = CrossEncoderTrainingArguments(
        output_dir=str(folder), report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no", logging_steps=1,
        optim="sgd", learning_rate=0.1, max_grad_norm=0.5, per_device_train_batch_size=batch_size, seed=3,
        num_train_epochs=2, gradient_accumulation_steps=2, dataloader_drop_last=True, dataloader_pin_memory=False,
        eval_strategy="epoch",
    )  # fmt: skip
    pairs = [(words(i), words(i + 30)) for i in range(8)]
    gradients = Gradients()
    trainer = CrossEncoderTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(rows(mode)),
        loss=made,
        evaluator=CrossEncoderCorrelationEvaluator(pairs, [float(i) for i in range(8)]),
        callbacks=[gradients],
    )
    trainer.train()
    history = trainer.state.log_history
    found = {key: [entry[key] for entry in history if key in entry] for key in ("loss", "eval_spearman", "grad_norm")}
    weights = [float(p.detach().double().sum()) for p in model.parameters()]
    return {**found, "gradients": gradients.steps, "weights": weights, "replayed": made.strategy.last_replayed}


@pytest.mark.slow
def test_two_ranks_equal_one(bert: Path, tmp_path: Path) -> None:
    first, second = run_on_two_ranks(__file__, tmp_path, bert)
    assert [(tmp_path / f"left{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
    for mode in MODES:
        left, right, alone = first[mode], second[mode], train(str(bert), tmp_path / f"{mode}-alone", BATCH, mode)
        assert left["loss"] == pytest.approx(alone["loss"], abs=2e-4) and len(left["loss"]) == 4
        assert left["weights"] == right["weights"] == pytest.approx(alone["weights"], abs=1e-4)
        assert left["gradients"] == right["gradients"] and len(left["gradients"]) == 4
        for ours, whole in zip(left["gradients"], alone["gradients"], strict=True):
            assert ours == pytest.approx(whole, abs=1e-5, rel=1e-3)
        assert left["eval_spearman"] == right["eval_spearman"] == pytest.approx(alone["eval_spearman"], abs=1e-6)
        assert bool(left["replayed"]) == (mode == "cached")


if __name__ == "__main__":
    path, target = sys.argv[1], Path(sys.argv[2])
    rank = os.environ["RANK"]
    # Runs after the trainer's own exit handler, which is registered later.
    atexit.register(lambda: Path(target, f"left{rank}").write_text(str(has_left())))
    results = {mode: train(path, target / mode, BATCH // 2, mode) for mode in MODES}
    (target / f"rank{rank}.json").write_text(json.dumps(results))
