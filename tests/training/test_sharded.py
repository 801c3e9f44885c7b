"""Two ranks with unequally many mini-batches train as one process does, weights whole (DDP) or sharded (FSDP2)."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed
from datasets import Dataset
from PIL import Image
from torch import Tensor

from fixtures.ranks import run_on_two_ranks
from omnitune.errors import CheckpointError, InputError
from omnitune.types import Column

SHARES = ([0, 1, 2, 3, 4, 5], [6, 7, 6, 7, 6, 7])
"""Rows of the two ranks; equal ones are encoded once, so of two at a time they are three mini-batches and one."""

PAGES = ([1, 3, 5, 7], [0, 2, 4, 6])
"""Of a model of texts and images: rank zero has no images, and the other no texts."""

LOSSES = ("plain", "cached", "one")


def words(i: int) -> str:
    return " ".join(f"word{(i * k) % 60}" for k in range(1, 2 + i % 7))


def columns(rows: list[int]) -> list[Column]:
    queries, documents = [words(i) for i in rows], [words(i + 30) for i in rows]
    return [
        Column(name="query", items=queries, role="query"),
        Column(name="page", items=documents, role="page" if rows[0] else "document"),
    ]


def mixed(rows: list[int]) -> list[Column]:
    """Documents that are texts where the number is odd, and else images."""
    seeds = {i: torch.Generator().manual_seed(i) for i in rows}
    noise = {i: torch.randint(0, 255, (40 + 8 * (i % 3), 56, 3), generator=seeds[i], dtype=torch.uint8) for i in rows}
    documents = [words(i) if i % 2 else Image.fromarray(noise[i].numpy()) for i in rows]
    queries = Column(name="query", items=[f"query {i}" for i in rows], role="query")
    return [queries, Column(name="page", items=documents, role="document")]


def step(model: Any, kind: str, rows: list[int], average: bool = False) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step; the latter whole."""
    from omnitune import losses
    from omnitune.training.distributed import average_gradients

    options: dict[str, Any] = {"gather_across_devices": True}
    loss: Any
    if kind == "plain":
        loss = losses.MultipleNegativesRankingLoss(model, **options)
    else:
        size = 64 if kind == "one" else 2
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size, **options)
    value = loss(mixed(rows) if kind == "mixed" else columns(rows), None)
    value.backward()
    if average:
        average_gradients(model.parameters())
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    found = {n: getattr(g, "full_tensor", lambda g=g: g)().clone() for n, g in gradients.items()}
    model.zero_grad()
    return value.item(), found


def encoder(path: str) -> Any:
    from omnitune import SentenceTransformer

    return SentenceTransformer(path, device="cpu").train()


def train(path: str, folder: Path, batch_size: int, **changes: Any) -> Any:
    from omnitune import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses
    from omnitune.evaluation import InformationRetrievalEvaluator

    model = encoder(path)
    pairs = {"query": [words(i) for i in range(24)], "page": [words(i + 30) for i in range(24)]}
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), report_to=[], disable_tqdm=True, use_cpu=True, logging_steps=1, seed=3, optim="sgd",
        learning_rate=0.5, max_grad_norm=0.5, per_device_train_batch_size=batch_size, dataloader_drop_last=True,
        dataloader_pin_memory=False, gradient_accumulation_steps=2, batch_sampler="no_duplicates",
        save_strategy="epoch", save_only_model=True, eval_strategy="epoch", **changes,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model,
        args=args,
        train_dataset=Dataset.from_dict(pairs),
        loss=losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2, gather_across_devices=True),
        evaluator=InformationRetrievalEvaluator(
            {i: q for i, q in enumerate(pairs["query"])},
            {i: d for i, d in enumerate(pairs["page"])},
            {i: {i} for i in range(24)},
            batch_size=5,
        ),
    )
    trainer.train()
    trainer.save_model(str(folder / "final"))
    return trainer


def own_weights(path: str, folder: Path, **changes: Any) -> float:
    """Size of what a loss with weights of its own has learnt, which were drawn with another seed on every rank."""
    from omnitune import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses

    model = encoder(path)
    torch.manual_seed(int(os.environ["RANK"]))
    loss = losses.SoftmaxLoss(model, model.get_embedding_dimension(), 3)
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder), report_to=[], disable_tqdm=True, use_cpu=True, max_steps=2, save_strategy="no",
        per_device_train_batch_size=2, dataloader_pin_memory=False, **changes,
    )  # fmt: skip
    texts = [words(i) for i in range(8)]
    pairs = Dataset.from_dict({"a": texts, "b": texts[::-1], "label": [i % 3 for i in range(8)]})
    SentenceTransformerTrainer(model=model, args=args, train_dataset=pairs, loss=loss).train()
    return sum(float(p.detach().abs().sum()) for n, p in loss.named_parameters() if not n.startswith("model."))


def history(trainer: Any) -> dict[str, Any]:
    entries = trainer.state.log_history
    keys = ("loss", "grad_norm", "eval_cosine_ndcg@10")
    return {key: [entry[key] for entry in entries if key in entry] for key in keys}


def attempt(work: Callable[[], Any]) -> str:
    try:
        work()
    except (InputError, CheckpointError) as error:
        return str(error)
    return "fine"


def on_a_rank(path: str, vision: str, folder: Path) -> dict[str, Any]:
    """What each of the two processes does."""
    from omnitune.engine.fsdp_sync import FILLER, in_step, shard
    from omnitune.types import MiniBatch

    rank = int(os.environ["RANK"])
    trainer = train(path, folder / "run", 3, fsdp=True)
    found: dict[str, Any] = {"history": history(trainer)}
    found["sharded"] = type(trainer.model).__name__
    model = trainer.model
    found["saving"] = attempt(lambda: model.save_pretrained(str(folder / "never")))
    found["loading"] = attempt(lambda: trainer._load_from_checkpoint(str(folder / "run" / "final")))
    config = {"fsdp_config": {"version": 2, "cpu_offload": True}}
    found["config"] = attempt(lambda: train(path, folder / "x", 3, fsdp=True, **config))
    found["best"] = attempt(lambda: train(path, folder / "x", 3, fsdp=True, load_best_model_at_end=True))
    found["blocks"] = attempt(lambda: shard(encoder(path), ["NoSuchBlock"]))
    trainer.evaluator = lambda *_, **__: {}
    found["evaluator"] = attempt(trainer.evaluate)
    sharded = shard(encoder(path), ["BertLayer"])
    for kind in LOSSES:
        loss, gradients = step(sharded, kind, SHARES[rank])
        found[kind] = loss
        if rank == 0:
            torch.save(gradients, folder / f"{kind}.pt")
    whole = encoder(path)
    for kind in LOSSES:
        loss, gradients = step(whole, kind, SHARES[rank], average=True)
        found[f"{kind} whole"] = loss
        if rank == 0:
            torch.save(gradients, folder / f"{kind} whole.pt")
    found["own"] = [own_weights(path, folder / "own"), own_weights(path, folder / "own", fsdp=True)]
    loss, gradients = step(shard(encoder(vision)), "mixed", PAGES[rank])
    found["mixed"] = loss
    if rank == 0:
        torch.save(gradients, folder / "mixed.pt")
    # Each rank encodes what it likes, as long as all encode: rank zero more, or in another way.
    mine = [words(i) for i in range(9 if rank == 0 else 2)]
    found["encoded"] = sharded.encode_query(mine, batch_size=2).tolist()
    # And trains on afterwards.
    found["again"] = step(sharded, "cached", SHARES[rank])[0]
    kinds = (("text", "a"), ("text", "b")) if rank == 0 else (("text", "b"), ("text", "b"))
    own = [
        MiniBatch(items=[f"{rank}{n}", "x"], places=["", ""], keys=["", ""], modality=m, role=r, cost=8)
        for n, (m, r) in enumerate(kinds)
    ]
    found["steps"] = [(place, one.role, list(one.items), one.cost) for place, one in in_step(own)]
    assert FILLER == -1
    return found


@pytest.fixture(scope="module")
def two_ranks(
    bert: Path, tiny_qwen3_vl: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    if not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("torch 2.6 shards on GPUs alone")
    folder = tmp_path_factory.mktemp("ranks")
    return folder, run_on_two_ranks(__file__, folder, bert, tiny_qwen3_vl)


Ranks = tuple[Path, list[dict[str, Any]]]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["", " whole"])
@pytest.mark.parametrize("kind", LOSSES)
def test_loss_and_gradients_are_those_of_one_process(bert: Path, two_ranks: Ranks, kind: str, weights: str) -> None:
    folder, found = two_ranks
    alone = step(encoder(str(bert)), kind, [*SHARES[0], *SHARES[1]])
    assert_equal(alone, [one[f"{kind}{weights}"] for one in found], folder / f"{kind}{weights}.pt")


@pytest.mark.slow
def test_ranks_of_different_modalities_make_the_same_forwards(tiny_qwen3_vl: Path, two_ranks: Ranks) -> None:
    folder, found = two_ranks
    alone = step(encoder(str(tiny_qwen3_vl)), "mixed", [*PAGES[0], *PAGES[1]])
    assert any("visual" in name for name in alone[1])
    assert_equal(alone, [one["mixed"] for one in found], folder / "mixed.pt")


def assert_equal(alone: tuple[float, dict[str, Tensor]], losses: list[float], gradients: Path) -> None:
    loss, expected = alone
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-5)
    found = torch.load(gradients)
    assert found.keys() == expected.keys() and max(g.abs().max() for g in expected.values()) > 0.01
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
def test_a_run_is_that_of_one_process(bert: Path, two_ranks: Ranks, tmp_path: Path) -> None:
    folder, (first, second) = two_ranks
    alone = train(str(bert), tmp_path, 6)
    expected = history(alone)
    assert first["sharded"] == "FSDPSentenceTransformer" and first["history"] == second["history"]
    for name, values in expected.items():
        assert first["history"][name] == pytest.approx(values, rel=2e-4) and values
    from omnitune import SentenceTransformer

    texts = [words(i) for i in range(7)]
    for name in ("final", "checkpoint-6"):
        saved = SentenceTransformer(str(folder / "run" / name), device="cpu")
        assert type(saved) is SentenceTransformer and saved.config.architectures == ["BertModel"]
        torch.testing.assert_close(
            saved.encode(texts, convert_to_tensor=True),
            alone.model.encode(texts, convert_to_tensor=True), rtol=0, atol=1e-4,
        )  # fmt: skip


@pytest.mark.slow
def test_ranks_encode_what_they_have(bert: Path, two_ranks: Ranks) -> None:
    model = encoder(str(bert))
    for rank, count in enumerate((9, 2)):
        expected = model.encode_query([words(i) for i in range(count)], batch_size=2)
        assert two_ranks[1][rank]["encoded"] == pytest.approx(expected, abs=1e-6)
        assert two_ranks[1][rank]["again"] == pytest.approx(two_ranks[1][rank]["cached"], abs=1e-6)


@pytest.mark.slow
def test_ranks_run_equally_many_of_every_kind(two_ranks: Ranks) -> None:
    first, second = (found["steps"] for found in two_ranks[1])
    assert first == [
        [0, "a", ["00", "x"], 8],
        [1, "b", ["01", "x"], 8],
        [-1, "b", ["x"], 4],
    ]
    assert second == [
        [-1, "a", ["x"], 4],
        [0, "b", ["10", "x"], 8],
        [1, "b", ["11", "x"], 8],
    ]


@pytest.mark.slow
def test_a_losss_own_weights_are_the_same_on_all_ranks(two_ranks: Ranks) -> None:
    first, second = (found["own"] for found in two_ranks[1])
    assert first == second and first[0] == pytest.approx(first[1], abs=1e-4)


@pytest.mark.slow
def test_messages(two_ranks: Ranks) -> None:
    for found in two_ranks[1]:
        assert found["saving"].startswith("save_pretrained: expected whole weights, got weights that are sharded")
        assert "expected a model with whole weights to load it into" in found["loading"]
        assert found["config"] == "fsdp_config: expected 'cpu_offload' to be left out, got True"
        assert found["best"].startswith("load_best_model_at_end: expected False with sharded weights")
        assert found["blocks"].startswith("blocks: expected class names of modules of the model, got ['NoSuchBlock']")
        assert found["evaluator"].startswith("evaluator: expected one that has a measure(model)")


def test_what_cannot_be_sharded_is_said(bert: Path, arguments: Callable[..., Any]) -> None:
    from omnitune.training.distributed import shard_as_asked

    args = arguments()
    shard_as_asked(encoder(str(bert)), args)
    args.fsdp, args.fsdp_config = True, {"version": 2}
    with pytest.raises(InputError, match="fsdp: expected a model, got model_init"):
        shard_as_asked(None, args)
    with pytest.raises(InputError, match="fsdp: expected several processes, got one"):
        shard_as_asked(encoder(str(bert)), args)
    args.fsdp_config = {"version": 1}
    with pytest.raises(InputError, match=r"fsdp_config: expected 'version' to be \(2,\), got 1"):
        shard_as_asked(encoder(str(bert)), args)


@pytest.mark.parametrize("wrapped", ["is_deepspeed_enabled", "is_fsdp_enabled"])
def test_a_model_that_others_wrap_is_refused(wrapped: str) -> None:
    from omnitune.training.distributed import keep_unwrapped

    trainer = SimpleNamespace(**{"is_deepspeed_enabled": False, "is_fsdp_enabled": False, wrapped: True})
    with pytest.raises(InputError, match="deepspeed, fsdp: expected torchrun, got a launcher that wraps the model"):
        keep_unwrapped(trainer)


def test_a_torch_that_shards_on_no_cpu_is_named(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnitune.engine.fsdp_sync import shard

    monkeypatch.setattr(torch.cpu, "Stream", object)
    with pytest.raises(InputError, match="fsdp: expected a GPU, as torch .* shards on no CPU; install a newer torch"):
        shard(encoder(bert))


if __name__ == "__main__":
    target = Path(sys.argv[3])
    results = on_a_rank(sys.argv[1], sys.argv[2], target)
    (target / f"rank{os.environ['RANK']}.json").write_text(json.dumps(results))
    torch.distributed.barrier()
    # Device meshes hold gloo's threads, and the interpreter, when it takes those down, now and then aborts.
    os._exit(0)
