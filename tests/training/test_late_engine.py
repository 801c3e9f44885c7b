"""What the engine and the trainer do for dense encoders, they do for late interaction, by the same code."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from datasets import Dataset
from torch import Tensor

from fixtures.ranks import run_on_two_ranks
from omnitune import MultiVectorEncoder
from omnitune.errors import DatasetError
from omnitune.losses import multi_vector as losses
from omnitune.modules import Dense, MultiVectorMask, Normalize, Transformer
from omnitune.training.arguments import MultiVectorEncoderTrainingArguments
from omnitune.training.trainer import MultiVectorEncoderTrainer as Trainer
from omnitune.types import Column

Pairs = Callable[..., Dataset]
SHARES = ([0, 1, 2, 3, 4, 5], [6, 7, 6, 7, 6, 7])
"""Rows of two ranks; of two at a time they are three mini-batches and one."""

MNRL = losses.MultiVectorMultipleNegativesRankingLoss
CACHED = losses.CachedMultiVectorMultipleNegativesRankingLoss


def encoder(folder: Path | str) -> MultiVectorEncoder:
    """Token vectors of 16 dimensions at unit length."""
    torch.manual_seed(0)
    backbone = Transformer(str(folder))
    size = backbone.get_embedding_dimension()
    dense = Dense(size, 16, bias=False, activation_function=None, module_input_name="token_embeddings")
    modules = [backbone, dense, MultiVectorMask(), Normalize("token_embeddings")]
    return MultiVectorEncoder(modules=modules, device="cpu").train()


def words(i: int) -> str:
    return " ".join(f"word{(i * k) % 60}" for k in range(1, 2 + i % 7))


def columns(rows: list[int], count: int = 3) -> list[Column]:
    return [Column(name=str(n), items=[words(i + 17 * n) for i in rows]) for n in range(count)]


def step(loss: Any, given: list[Column], labels: Tensor | None = None) -> tuple[float, dict[str, Tensor]]:
    """Value and whole gradients of one step."""
    loss.model.zero_grad()
    torch.manual_seed(5)
    value = loss(given, labels)
    value.backward()
    found = {n: p.grad for n, p in loss.model.named_parameters() if p.grad is not None}
    return value.item(), {n: getattr(g, "full_tensor", lambda g=g: g)().clone() for n, g in found.items()}


def agree(one: tuple[float, dict[str, Tensor]], other: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    assert max(float(g.abs().max()) for g in other[1].values()) > 1e-3
    for name, gradient in other[1].items():
        torch.testing.assert_close(one[1][name], gradient, rtol=1e-4, atol=3e-6, msg=name)


TEACHER = torch.randn(8, 2, generator=torch.Generator().manual_seed(1))
MADE: dict[str, Callable[[Any], Any]] = {
    "contrastive": lambda m: MNRL(m, mini_batch_size=3),
    "cached, smooth": lambda m: CACHED(m, mini_batch_size=3, smooth=0.1),
    "distillation": lambda m: losses.MultiVectorDistillKLDivLoss(m, mini_batch_size=3),
    "margins": lambda m: losses.MultiVectorMarginMSELoss(m, mini_batch_size=3),
    "pairwise": lambda m: losses.MultiVectorPairwiseLoss(m, mini_batch_size=3),
    "hard negatives": lambda m: losses.MultiVectorHardNegativesLoss(m, mini_batch_size=3),
}


@pytest.mark.parametrize("name", MADE)
def test_kept_and_replayed_graphs_agree(name: str, dropping_bert: Path) -> None:
    """With dropout: a replay draws what its first forward drew."""
    model = encoder(dropping_bert)
    labels = TEACHER if name in ("distillation", "margins") else None
    found = []
    for budget in (1 << 30, 0):
        loss = MADE[name](model)
        loss.strategy.activation_memory = budget
        found.append(step(loss, columns(list(range(8))), labels))
        kept, replayed = loss.strategy.last_kept, loss.strategy.last_replayed
        assert (replayed == 0 and kept > 3) if budget else (kept == 0 and replayed > 3)
    agree(found[1], found[0])


def on_a_rank(path: str, folder: Path) -> dict[str, Any]:
    """What each of two processes does: whole weights, then sharded ones (FSDP2)."""
    from omnitune.engine.fsdp_sync import shard
    from omnitune.training.distributed import average_gradients

    rank, found = int(os.environ["RANK"]), {}
    for kind in ("whole", "sharded"):
        model: Any = encoder(path)
        model = model if kind == "whole" else shard(model, ["BertLayer"])
        loss = CACHED(model, mini_batch_size=2, gather_across_devices=True)
        value, gradients = step(loss, columns(SHARES[rank]))
        if kind == "whole":
            average_gradients(model.parameters())
            gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found[kind] = value
        found[f"{kind} negatives"] = loss.negatives_per_query(6, 3)
        if rank == 0:
            torch.save(gradients, folder / f"{kind}.pt")
    found["encoded"] = [row.tolist() for row in model.encode_document([words(rank), words(rank + 5)])]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.cpu.Stream, "record_event"), reason="torch 2.6 shards on GPUs alone")
def test_two_ranks_are_one_process_whole_and_sharded(bert: Path, tmp_path: Path) -> None:
    first, second = run_on_two_ranks(__file__, tmp_path, bert)
    model = encoder(bert)
    alone = step(CACHED(model, mini_batch_size=2), columns([*SHARES[0], *SHARES[1]]))
    for kind in ("whole", "sharded"):
        agree(((first[kind] + second[kind]) / 2, torch.load(tmp_path / f"{kind}.pt")), alone)
        assert first[f"{kind} negatives"] == 23
    for rank, found in enumerate((first, second)):
        for one, other in zip(found["encoded"], model.encode_document([words(rank), words(rank + 5)]), strict=True):
            torch.testing.assert_close(torch.tensor(one), other, rtol=0, atol=1e-6)


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., Any]:
    def make(**changes: Any) -> Any:
        settings = {
            "output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 8, "learning_rate": 1e-2, "seed": 1,
            "logging_steps": 1, "report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no",
            "dataloader_pin_memory": False, **changes,
        }  # fmt: skip
        return MultiVectorEncoderTrainingArguments(**settings)

    return make


def logged(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_a_stream_trains(bert: Path, pairs: Pairs, arguments: Callable[..., Any]) -> None:
    model = encoder(bert)
    args = arguments(max_steps=12, lr_scheduler_type="constant")
    trainer = Trainer(model=model, args=args, train_dataset=pairs(32).to_iterable_dataset(), loss=CACHED(model))
    trainer.train()
    found = logged(trainer)
    assert len(found) == 12
    assert sum(found[-4:]) < 0.8 * sum(found[:4])


@pytest.mark.parametrize("adapted", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one(
    adapted: bool, dropping_bert: Path, pairs: Pairs, arguments: Callable[..., Any]
) -> None:
    """Also with LoRA, where the adapter alone moves and is saved."""

    def make() -> Trainer:
        model = encoder(dropping_bert)
        if adapted:
            peft = pytest.importorskip("peft")
            torch.manual_seed(3)
            model.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
        args = arguments(save_strategy="steps", save_steps=2, max_steps=4)
        return Trainer(model=model, args=args, train_dataset=pairs(24), loss=CACHED(model, mini_batch_size=3))

    whole, resumed = make(), make()
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    whole.train()
    folder = Path(resumed.args.output_dir) / "checkpoint-2"
    resumed.train(resume_from_checkpoint=str(folder))
    assert logged(resumed) == logged(whole) and len(logged(whole)) == 4
    after = whole.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("lora" in name for name in moved) is adapted
    if adapted:
        # The projection is no part of the adapter: it is new, so it trains beside it.
        assert all("lora" in name or name.startswith("1.") for name in moved)
        assert not (folder / "model.safetensors").exists()


def test_bad_rows_are_named_or_left_out(bert: Path, pairs: Pairs, arguments: Callable[..., Any]) -> None:
    rows = pairs(16).to_dict()
    rows["positive"][5] = None
    data = Dataset.from_dict(rows)
    model = encoder(bert)
    with pytest.raises(DatasetError, match=r"row 5, column 'positive': missing \(None\)"):
        Trainer(model=model, args=arguments(max_steps=1), train_dataset=data, loss=MNRL(model)).train()
    args = arguments(on_bad_item="skip", num_train_epochs=1)
    trainer = Trainer(model=model, args=args, train_dataset=data, loss=MNRL(model))
    trainer.train()
    assert [str(item) for item in trainer.skipped_items] == ["row 5, column 'positive': missing (None)"]
    seen = sorted(row for batch in trainer.get_train_dataloader() for row in batch["columns"][0].rows)
    assert seen == [row for row in range(16) if row != 5]


def test_a_frozen_tower_runs_once_a_page(tiny_qwen3_vl: Path, pages: Any, arguments: Callable[..., Any]) -> None:
    peft = pytest.importorskip("peft")
    found = []
    for cache in ("off", "auto"):
        model = encoder(tiny_qwen3_vl)
        torch.manual_seed(3)
        model.add_adapter(peft.LoraConfig(r=2, target_modules=r".*language_model.*\.(q|v)_proj"))
        args = arguments(num_train_epochs=2, per_device_train_batch_size=4, tower_cache=cache)
        data = pages().select(range(8))
        trainer = Trainer(model=model, args=args, train_dataset=data, loss=CACHED(model, mini_batch_size=2))
        trainer.train()
        found.append(logged(trainer))
        assert any("8 items" in line and "'page'" in line for line in trainer.opening_lines) is (cache == "auto")
    assert found[0] == found[1] and len(set(found[0])) > 1
    assert model.engine.towers.misses <= 9  # once a page, and one again for the forecast
    assert model.engine.towers.hits >= 8


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    target = Path(sys.argv[2])
    result = on_a_rank(sys.argv[1], target)
    (target / f"rank{os.environ['RANK']}.json").write_text(json.dumps(result))
    torch.distributed.barrier()
    os._exit(0)  # as in test_sharded: gloo's threads may abort the interpreter's end
