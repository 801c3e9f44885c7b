"""What only a device can show, against the CPU: every modality and family, strategies, adapters, ranks, files.

The GPU's float32 products add in another order than the CPU's: numbers agree to 1e-4 of their size, bfloat16's to 4%.
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from omnitune import (
    CrossEncoder,
    MultiVectorEncoder,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    runtime,
)
from omnitune.losses.cross_encoder import BinaryCrossEntropyLoss
from omnitune.losses.multi_vector import CachedMultiVectorMultipleNegativesRankingLoss
from omnitune.types import Column

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

TEXTS = [f"text {i} " + "with more words " * (i % 5) for i in range(8)]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}


def sound(hertz: float, rate: int = 16_000) -> dict[str, Any]:
    time = np.arange(rate // 2) / rate
    return {"array": np.sin(2 * np.pi * hertz * time).astype(np.float32), "sampling_rate": rate}


def clip(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (8, 48, 48, 3), dtype=np.uint8)


def far(found: Any, expected: Any) -> float:
    """Difference relative to the length of what is expected."""
    a, b = (torch.as_tensor(value).detach().float().cpu() for value in (found, expected))
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def on(device: str, path: Path, **options: Any) -> SentenceTransformer:
    return SentenceTransformer(str(path), device=device, **options)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("tiny_bert", ["text"]),
        ("tiny_qwen3", ["text"]),
        ("tiny_clip", ["text", "image"]),
        ("tiny_siglip", ["text", "image"]),
        ("tiny_smolvlm", ["text", "image"]),
        ("tiny_qwen2_vl", ["text", "image", "both"]),
        ("tiny_qwen2_5_vl", ["text", "image", "both"]),
        ("tiny_qwen3_vl", ["text", "image", "both", "video"]),
        ("tiny_qwen2_5_omni", ["text", "image", "audio"]),
        ("tiny_whisper", ["audio"]),
        ("tiny_clap", ["audio"]),
        ("tiny_videomae", ["video"]),
    ],
)
def test_every_modality(
    device: str, name: str, kinds: list[str], request: pytest.FixtureRequest, page_images: list[Image.Image]
) -> None:
    path: Path = request.getfixturevalue(name)
    items = {
        "text": TEXTS,
        "image": page_images[:5],
        "both": [{"text": text, "image": image} for text, image in zip(TEXTS[:3], page_images, strict=False)],
        "audio": [sound(220.0), sound(440.0), sound(880.0)],
        "video": [clip(0), clip(1)],
    }
    there, here = on(device, path), on("cpu", path)
    for kind in kinds:
        found = there.encode(items[kind], batch_size=2, convert_to_tensor=True)
        assert found.device.type == device
        assert far(found, here.encode(items[kind], batch_size=2)) < TOLERANCE[torch.float32], kind


@pytest.fixture(scope="module")
def classifier(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny_bert, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


def test_pairs(device: str, classifier: Path) -> None:
    pairs = [(f"query {i}", text) for i, text in enumerate(TEXTS)]
    columns = [Column(name="q", items=[q for q, _ in pairs]), Column(name="d", items=TEXTS)]
    found: list[Any] = []
    for place in (device, "cpu"):
        model = CrossEncoder(str(classifier), device=place)
        scores = model.predict(pairs)
        labels = (torch.arange(len(pairs)) % 2).float().to(model.device)
        BinaryCrossEntropyLoss(model)(columns, labels).backward()
        found.append((scores, [weight.grad for weight in model.parameters()]))
    assert far(found[0][0], found[1][0]) < 1e-4
    for first, second in zip(found[0][1], found[1][1], strict=True):
        assert (first is None) == (second is None) and (first is None or far(first, second) < 1e-3)


def test_token_vectors(device: str, tiny_bert: Path) -> None:
    found: dict[str, Any] = {}
    for place in (device, "cpu"):
        torch.manual_seed(0)
        model = MultiVectorEncoder(str(tiny_bert), device=place)
        encoded = model.encode_document(TEXTS)
        assert all(row.device.type == place for row in encoded)
        loss = CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=2)
        value = loss([Column(name="query", items=TEXTS[::-1], role="query"),
                      Column(name="page", items=TEXTS, role="document")])  # fmt: skip
        value.backward()
        found[place] = torch.cat([row.cpu() for row in encoded]), value
    assert far(found[device][0], found["cpu"][0]) < 1e-4 and far(found[device][1], found["cpu"][1]) < 1e-4


def stepped(model: SentenceTransformer, items: list[Any], kind: str) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients: graphs kept, replayed, or in one pass without a cache."""
    model.train()
    model.zero_grad()
    columns = [Column(name="q", items=[f"query {i}" for i in range(len(items))]), Column(name="d", items=items)]
    loss: Any
    if kind == "direct":
        loss = losses.MultipleNegativesRankingLoss(model)
    else:
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
        loss.strategy.activation_memory = 0 if kind == "replayed" else 1 << 33
    value = loss(columns)
    value.backward()
    if kind == "replayed":
        assert loss.strategy.last_kept == 0
    return value.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_qwen3_vl"])
def test_kept_is_replayed_is_direct(
    device: str, name: str, dtype: torch.dtype, request: pytest.FixtureRequest, page_images: list[Image.Image]
) -> None:
    model = on(device, request.getfixturevalue(name), model_kwargs={"dtype": dtype})
    items = TEXTS if name == "tiny_bert" else page_images[:8]
    expected, gradients = stepped(model, items, "direct")
    length = torch.stack([g.float().norm() for g in gradients.values()]).norm()
    for kind in ("kept", "replayed"):
        loss, found = stepped(model, items, kind)
        assert loss == pytest.approx(expected, rel=TOLERANCE[dtype]) and found.keys() == gradients.keys()
        apart = torch.stack([(found[n] - g).float().norm() for n, g in gradients.items()]).norm()
        assert float(apart / length) < 3 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_qwen3", "tiny_qwen3_vl"])
def test_packed_is_padded(
    device: str, name: str, dtype: torch.dtype, request: pytest.FixtureRequest, page_images: list[Image.Image]
) -> None:
    path = request.getfixturevalue(name)
    items = [*page_images[:4], *TEXTS] if name == "tiny_qwen3_vl" else TEXTS
    packed = on(device, path, model_kwargs={"dtype": dtype, "attn_implementation": "omnitune_varlen"})
    padded = on(device, path, model_kwargs={"dtype": dtype})
    assert packed[0].packer.packs()
    # A packed row has learnt positions from its first token on; so only right-padded ones are the same.
    assert far(packed.encode(items), padded.encode(items)) < TOLERANCE[dtype]
    assert stepped(packed, items, "kept")[0] == pytest.approx(stepped(padded, items, "kept")[0], rel=TOLERANCE[dtype])


def arguments(device: str, folder: Path, **changes: Any) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        **{
            "output_dir": str(folder), "report_to": [], "disable_tqdm": True, "use_cpu": device == "cpu",
            "logging_steps": 1, "seed": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
            "save_strategy": "no", **changes,
        }
    )  # fmt: skip


def trainer_of(model: SentenceTransformer, args: Any, pages: list[Image.Image] | None = None) -> Any:
    documents = pages if pages is not None else TEXTS * 2
    data = Dataset.from_dict({"query": [f"query {i}" for i in range(len(documents))], "page": documents})
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    return SentenceTransformerTrainer(model=model, args=args, train_dataset=data, loss=loss)


def logged(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_an_adapter_over_a_kept_tower(
    device: str, tiny_qwen3_vl: Path, page_images: list[Image.Image], tmp_path: Path
) -> None:
    from peft import LoraConfig

    found = {}
    for place in ("auto", "off"):
        torch.manual_seed(0)
        model = on(device, tiny_qwen3_vl)
        model.add_adapter(LoraConfig(r=4, target_modules=r".*language_model.*\.(q|v)_proj"))
        args = arguments(device, tmp_path, num_train_epochs=3, tower_cache=place)
        trainer = trainer_of(model, args, page_images[:8])
        trainer.train()
        found[place] = logged(trainer)
        assert (model.engine.towers.hits > 0) == (place == "auto")
    assert found["auto"] == pytest.approx(found["off"], rel=1e-5) and found["auto"][-1] < found["auto"][0]


def test_a_resumed_run_goes_on(device: str, tiny_bert: Path, tmp_path: Path) -> None:
    args = arguments(device, tmp_path, num_train_epochs=2, save_strategy="steps", save_steps=3)
    whole = trainer_of(on(device, tiny_bert), args)
    whole.train()
    again = trainer_of(on(device, tiny_bert), args)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert logged(again) == pytest.approx(logged(whole), rel=1e-5) and len(logged(whole)) == 8
    assert next(again.model.parameters()).device.type == device


def test_processes_encode(device: str, tiny_bert: Path) -> None:
    model = on(device, tiny_bert)
    pool = model.start_multi_process_pool([device, device])
    try:
        found = model.encode(TEXTS * 5, pool=pool, chunk_size=7)
    finally:
        model.stop_multi_process_pool(pool)
    assert next(model.parameters()).device.type == device
    assert far(found, model.encode(TEXTS * 5)) < 1e-4


def test_running_out_of_memory_replays_the_rest(device: str, tiny_bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = on(device, tiny_bert)
    expected, gradients = stepped(model, TEXTS, "direct")
    run, calls = model.engine.run, []

    def starving(features: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        if len(calls) == 3:
            torch.empty(1 << 46, dtype=torch.uint8, device=device)  # 64 TiB: the allocator itself says no
        return run(features)

    model.engine.run = starving  # type: ignore[method-assign]
    loss, found = stepped(model, TEXTS, "kept")
    assert "Out of memory while keeping graphs" in caplog.text and calls[2] and not all(calls)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert all(far(found[name], gradient) < 1e-3 for name, gradient in gradients.items() if gradient.norm() > 1e-4)


def test_auto_bf16_is_what_the_device_computes(device: str, tiny_bert: Path) -> None:
    model = on(device, tiny_bert, model_kwargs={"dtype": "auto-bf16"})
    has = runtime.computes_bfloat16(device)
    assert model.dtype is (torch.bfloat16 if has else torch.float32)
    assert far(model.encode(TEXTS), on("cpu", tiny_bert).encode(TEXTS)) < TOLERANCE[torch.bfloat16]


def test_what_a_device_saved_is_read_without_one(device: str, tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    model = on(device, tiny_qwen3_vl)
    model.save_pretrained(str(tmp_path))
    again = on("cpu", tmp_path)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert far(model.encode(TEXTS), again.encode(TEXTS)) < 1e-4


def test_a_sharded_model_on_one_rank(device: str, tiny_bert: Path, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", __file__]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, device, str(tiny_bert), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "losses.json").read_text())
    alone = trainer_of(on(device, tiny_bert), arguments(device, tmp_path, dataloader_drop_last=True))
    alone.train()
    assert found == pytest.approx(logged(alone), rel=1e-4)


def test_our_own_lines_do_not_wait(device: str, tiny_qwen3_vl: Path, page_images: list[Image.Image]) -> None:
    """CUDA itself says which lines make the host wait; `tests/engine/test_on_a_device.py` says it without one."""
    if device == "cpu":
        pytest.skip("a CPU waits for nothing")
    model = on(device, tiny_qwen3_vl)
    stepped(model, page_images[:8], "kept")
    before: Callable[[], Any] = torch.cuda.get_sync_debug_mode
    mode = before()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            model.train()
            loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
            columns = [Column(name="q", items=TEXTS), Column(name="d", items=page_images[:8])]
            loss(columns).backward()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    ours = [
        f"{w.filename}:{w.lineno}" for w in caught if "/src/omnitune/" in w.filename and "synchron" in str(w.message)
    ]
    assert not ours


def on_a_rank(device: str, path: str, folder: Path) -> None:
    args = arguments(device, folder, fsdp=True, dataloader_drop_last=True)
    trainer = trainer_of(on(device, Path(path)), args)
    trainer.train()
    (folder / "losses.json").write_text(json.dumps(logged(trainer)))


if __name__ == "__main__":
    torch.distributed.init_process_group("nccl" if sys.argv[1] == "cuda" else "gloo")
    try:
        on_a_rank(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    finally:
        torch.distributed.destroy_process_group()
