"""Two processes train as one does on the joined batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omnitune.training.gradients import BUCKET_BYTES, _buckets, average_gradients

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from datasets import Dataset
from omnitune import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
from omnitune.evaluation import BaseEvaluator

model_path, folder, batch_size, mode = sys.argv[1:]
words = lambda i: f"word{i % 60} word{(i * 7) % 60} word{(i * 3) % 60}"
rows = range(24)
columns = {"a": [words(i) for i in rows], "b": [words(i + 1) for i in rows]}
if mode == "score":
    columns["score"] = [(i % 5) / 5 for i in rows]

class Counting(BaseEvaluator):
    def __call__(self, model, output_path=None, epoch=-1, steps=-1):
        Path(output_path, "calls").open("a").write("x")
        return {"score": 1.0}

class Parts(losses.CosineSimilarityLoss):
    def objective(self, embeddings, labels):
        return {"part": super().objective(embeddings, labels)}

model = SentenceTransformer(model_path, device="cpu")
args = SentenceTransformerTrainingArguments(
    output_dir=folder, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no", logging_steps=1, optim="sgd",
    learning_rate=0.5, max_grad_norm=0.5, per_device_train_batch_size=int(batch_size), seed=3, num_train_epochs=2,
    gradient_accumulation_steps=2, dataloader_drop_last=True, dataloader_pin_memory=False, eval_strategy="epoch",
    batch_sampler="no_duplicates",
)
if mode == "score":
    loss = Parts(model)
else:
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2, gather_across_devices=True)
trainer = SentenceTransformerTrainer(
    model=model, args=args, train_dataset=Dataset.from_dict(columns), loss=loss, evaluator=Counting()
)
trainer.train()
result = {
    "losses": [e["loss"] for e in trainer.state.log_history if "loss" in e],
    "parts": [e["part"] for e in trainer.state.log_history if "part" in e],
    "weight": float(sum(p.detach().double().sum() for p in model.parameters())),
    "evaluated": [e["eval_score"] for e in trainer.state.log_history if "eval_score" in e],
    "calls": Path(folder, "eval", "calls").read_text(),
}
Path(folder, f"rank{args.process_index}.json").write_text(json.dumps(result))
"""


def train(script: Path, model: Path, folder: Path, ranks: int, batch_size: int, mode: str) -> list[dict[str, object]]:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"] if ranks == 2 else []
    command = [sys.executable, *launch, str(script), str(model), str(folder), str(batch_size), mode]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["score", "gathered"])
def test_two_ranks_equal_one(bert: Path, tmp_path: Path, mode: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    first, second = train(script, bert, tmp_path / "two", 2, 3, mode)
    (alone,) = train(script, bert, tmp_path / "one", 1, 6, mode)
    assert first["losses"] == second["losses"] or mode == "gathered"
    assert first["weight"] == second["weight"]
    assert first["losses"] == pytest.approx(alone["losses"], abs=2e-4)
    assert first["weight"] == pytest.approx(alone["weight"], abs=1e-4)
    assert first["parts"] == pytest.approx(alone["parts"], abs=2e-4) and bool(first["parts"]) == (mode == "score")
    assert first["evaluated"] == second["evaluated"] == [1.0, 1.0] and first["calls"] == "xx"


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
