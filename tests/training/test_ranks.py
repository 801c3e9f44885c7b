"""Two processes train as one does on the joined batch."""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from fixtures.ranks import has_left, run_on_two_ranks
from omnitune.training import base
from omnitune.training.distributed import BUCKET_BYTES, _buckets, average_gradients

MODES = ("score", "gathered")

HELD: list[Any] = []
"""Trainers that a script still holds when it ends."""


def words(i: int) -> str:
    return f"word{i % 60} word{(i * 7) % 60} word{(i * 3) % 60}"


def train(model_path: str, folder: Path, batch_size: int, mode: str) -> dict[str, Any]:
    """Four steps of two accumulated batches on every rank, with evaluations."""
    from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
    from omnitune.evaluation import BaseEvaluator

    class Counting(BaseEvaluator):
        def __call__(self, model: Any, output_path: Any = None, epoch: Any = -1, steps: Any = -1) -> dict[str, float]:
            with Path(output_path, "calls").open("a") as file:
                file.write("x")
            return {"score": 1.0}

    class Parts(losses.CosineSimilarityLoss):
        def objective(self, embeddings: Any, labels: Any) -> Any:
            return {"part": super().objective(embeddings, labels)}

    columns: dict[str, list[Any]] = {"a": [words(i) for i in range(24)], "b": [words(i + 30) for i in range(24)]}
    if mode == "score":
        columns["score"] = [(i % 5) / 5 for i in range(24)]
    model = SentenceTransformer(model_path, device="cpu")
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no", logging_steps=1,
        optim="sgd", learning_rate=0.5, max_grad_norm=0.5, per_device_train_batch_size=batch_size, seed=3,
        num_train_epochs=2, gradient_accumulation_steps=2, dataloader_drop_last=True, dataloader_pin_memory=False,
        eval_strategy="epoch", batch_sampler="no_duplicates",
    )  # fmt: skip
    gathered = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2, gather_across_devices=True)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(columns),
        loss=Parts(model) if mode == "score" else gathered,
        evaluator=Counting(),
    )
    HELD.append(trainer)
    synced = []
    monkey = pytest.MonkeyPatch()
    monkey.setattr(base, "average_gradients", lambda parameters: synced.append(average_gradients(parameters)))
    trainer.train()
    monkey.undo()
    history = trainer.state.log_history
    weights = [p.detach().double().sum() for name, p in model.named_parameters() if "pooler" not in name]
    found = {key: [entry[key] for entry in history if key in entry] for key in ("loss", "part", "eval_score")}
    return {
        **found,
        "synced": len(synced),
        "weight": float(sum(weights)),
        "calls": (folder / "eval" / "calls").read_text(),
    }


@pytest.mark.slow
def test_two_ranks_equal_one(bert: Path, tmp_path: Path) -> None:
    first, second = run_on_two_ranks(__file__, tmp_path, bert)
    # A gloo group that is still there when the interpreter ends aborts its process now and then.
    assert [(tmp_path / f"left{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
    for mode in MODES:
        left, right, alone = first[mode], second[mode], train(str(bert), tmp_path / f"{mode}-alone", 6, mode)
        assert left["weight"] == right["weight"] == pytest.approx(alone["weight"], abs=1e-4)
        assert left["loss"] == pytest.approx(alone["loss"], abs=2e-4) and len(left["loss"]) == 4
        assert left["synced"] == right["synced"] == 4 and alone["synced"] == 0  # once an optimizer step
        assert left["part"] == pytest.approx(alone["part"], abs=2e-4) and bool(left["part"]) == (mode == "score")
        assert left["eval_score"] == right["eval_score"] == [1.0, 1.0] and left["calls"] == "xx"


def test_one_process_leaves_gradients_alone() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    average_gradients([parameter])
    assert parameter.grad.tolist() == [2.0] * 3


def test_buckets_hold_one_dtype_and_a_bounded_size() -> None:
    half = torch.zeros(4, dtype=torch.float16)
    large = torch.zeros(BUCKET_BYTES // 8)
    sizes = [len(bucket) for bucket in _buckets([large, large, large, half, half])]
    assert sizes == [2, 1, 2]


if __name__ == "__main__":
    path, target = sys.argv[1], Path(sys.argv[2])
    rank = os.environ["RANK"]
    # Runs after the trainer's own exit handler, which is registered later.
    atexit.register(lambda: Path(target, f"left{rank}").write_text(str(has_left())))
    results = {mode: train(path, target / mode, 3, mode) for mode in MODES}
    (target / f"rank{rank}.json").write_text(json.dumps(results))
