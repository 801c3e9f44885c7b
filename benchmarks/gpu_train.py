"""The parts `train` and `text` of `gpu.py`."""

import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gpu_models
import torch
from gpu_bench import Bench, trained
from gpu_models import page_pictures
from support import OURS, RIVAL, texts


def train(bench: Bench) -> None:
    """The published recipe, full and with an adapter; then where the time of our step goes."""
    folder = gpu_models.vision_language(bench.models, bench.sizes, bench.device)
    sizes = bench.sizes
    pages = page_pictures(sizes.batch * (sizes.steps + 1), sizes.side)
    rate = bench.products_a_second()
    forward = forward_flops(bench, folder, pages[: sizes.mini_batch]) / sizes.mini_batch
    bench.report("a large matrix product", "TFLOP/s", rate / 1e12)
    bench.report("one page forward", "TFLOP", forward / 1e12)
    full = dict.fromkeys(bench.libraries, partial(train_steps, bench, folder, pages, lora=False))
    compared(bench, "full finetuning", full, flops=3 * forward * sizes.batch / rate)
    # A second epoch of the same pages: the frozen tower's outputs are known.
    fewer = pages[: sizes.batch * 2]
    adapted = dict.fromkeys(bench.libraries, partial(train_steps, bench, folder, fewer, lora=True))
    compared(bench, "LoRA, frozen tower", adapted)
    phases(bench, folder, pages[: sizes.batch])


def compared(bench: Bench, what: str, runs: Mapping[str, Callable[..., Any]], flops: float | None = None) -> None:
    """Train with each library; report steps and samples a second, peak memory, and whether losses agree."""
    done = {}
    for library, work in runs.items():
        bench.forget()
        done[library] = work(library)
        done[library]["peak"] = bench.peak() / 1e9
    ours, theirs = done[OURS], done.get(RIVAL)
    step = {name: statistics.median(run["seconds"][1:]) for name, run in done.items()}
    facts: dict[str, Any] = {"losses": [round(loss, 4) for loss in ours["losses"]]}
    if theirs is not None:
        facts["their_losses"] = [round(loss, 4) for loss in theirs["losses"]]
    if flops is not None:  # seconds that the model's arithmetic would take at the rate of the product above
        facts |= {f"utilisation_{name}": round(flops / seconds, 3) for name, seconds in step.items()}
    batch = bench.sizes.batch
    rival = batch / step[RIVAL] if RIVAL in step else None
    facts["step_seconds"] = round(step[OURS], 3)
    bench.report(f"{what}, batch {batch}", "samples/s", batch / step[OURS], rival, **facts)
    bench.report(f"{what}, peak memory", "GB", ours["peak"], theirs["peak"] if theirs is not None else None)


def train_steps(bench: Bench, folder: Path, pages: Sequence[Any], library: str, *, lora: bool) -> dict[str, Any]:
    """Steps of a trainer: losses, and seconds of each."""
    from datasets import Dataset, Features, Image, Value

    sizes = bench.sizes
    model = bench.load(library, folder, model_kwargs={"dtype": bench.dtype})
    if lora:
        from peft import LoraConfig

        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=16, target_modules=r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"))
    columns = {"query": [f"words of page {i}, and where they are" for i in range(len(pages))], "page": list(pages)}
    dataset = Dataset.from_dict(columns, Features({"query": Value("string"), "page": Image()}))
    losses = importlib.import_module(f"{library}.sentence_transformer.losses")
    cached = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=sizes.mini_batch)
    dim = model.get_embedding_dimension()
    loss = losses.MatryoshkaLoss(model, cached, [dim, dim // 2, dim // 4, dim // 8])
    return trained(bench, library, model, dataset, loss, batch=sizes.batch, epochs=2 if lora else 1)


def forward_flops(bench: Bench, folder: Path, pages: Sequence[Any]) -> int:
    """Operations of one forward over some pages, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    from omnitune.types import Column

    model = bench.load(OURS, folder, model_kwargs={"dtype": bench.dtype})
    plan = model.engine.plan([Column(name="page", items=list(pages))], mini_batch_size=len(pages))
    total = 0
    with torch.no_grad():
        for features in model.engine.prepare(plan.mini_batches):
            with FlopCounterMode(display=False) as counter:
                model.engine.run(features)
            total += counter.get_total_flops()
    return total


def phases(bench: Bench, folder: Path, pages: Sequence[Any]) -> None:
    """Shares of one of our steps: input, forward, loss, backward, optimizer; and how busy the device is."""
    from omnitune import losses
    from omnitune.types import Column

    bench.forget()
    model = bench.load(OURS, folder, model_kwargs={"dtype": bench.dtype})
    model.train()
    cached = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=bench.sizes.mini_batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    queries = Column(name="query", items=[f"words of page {i}" for i in range(len(pages))])
    columns = [queries, Column(name="page", items=list(pages))]
    spent: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        bench.wait()
        start = time.perf_counter()
        yield
        bench.wait()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    prepare, run = model.engine.prepare, model.engine.run

    def prepared(*args: Any, **kwargs: Any) -> Iterator[Any]:
        source = iter(prepare(*args, **kwargs))
        while True:
            with phase("input"):
                features = next(source, None)
            if features is None:
                return
            yield features

    def forward(features: Any) -> Any:
        with phase("forward"):
            return run(features)

    def step(measured: Callable[[str], Any]) -> None:
        half = torch.autocast(bench.device.split(":")[0], torch.bfloat16, enabled=bench.cuda)
        with half, measured("forward, loss and input"):
            value = cached(columns)
        with measured("backward"):
            value.backward()
        with measured("optimizer"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    def unmeasured(_: str) -> Any:
        return contextmanager(lambda: iter([None]))()

    step(unmeasured)
    model.engine.prepare, model.engine.run = prepared, forward
    step(phase)
    del model.engine.prepare, model.engine.run
    spent["loss"] = spent.pop("forward, loss and input") - spent["forward"] - spent["input"]
    whole = sum(spent.values())
    shares = {name: round(seconds / whole, 3) for name, seconds in sorted(spent.items(), key=lambda item: -item[1])}
    bench.report("one step with a wait after each phase", "s", whole, **shares)
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if bench.cuda else [])]
    with torch.profiler.profile(activities=kinds) as profile:
        bench.wait()
        start = time.perf_counter()
        step(unmeasured)
        bench.wait()
        wall = time.perf_counter() - start
    events = profile.key_averages()
    own = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
    # On a device, operators carry the time of their kernels as well: only kernels are counted.
    kernels = [e for e in events if not bench.cuda or e.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(getattr(event, own) for event in kernels) / 1e6
    first = sorted(kernels, key=lambda event: -getattr(event, own))[:10]
    top = {event.key[:60]: round(getattr(event, own) / 1e6 / busy, 3) for event in first}
    bench.report("share of a step that the device computes", "1", busy / wall, idle=round(1 - busy / wall, 3), **top)


# -- text


def text(bench: Bench) -> None:
    """Pairs of texts of lognormal length: ours padded and packed, against the rival at each of its settings."""
    batch, steps = bench.sizes.text_batch, bench.sizes.steps
    jobs = {
        f"BERT of {bench.sizes.bert_weights}": (
            gpu_models.bert(bench.models, bench.sizes, bench.device),
            "MultipleNegativesRankingLoss",
            {},
        ),
        f"Qwen3 of {bench.sizes.decoder_weights}": (
            gpu_models.decoder(bench.models, bench.sizes, bench.device),
            "CachedMultipleNegativesRankingLoss",
            {"mini_batch_size": 128},
        ),
    }
    for what, (folder, kind, options) in jobs.items():
        runs: dict[str, tuple[str, dict[str, Any]]] = {
            "padded": (OURS, {}),
            "packed": (OURS, {"attn_implementation": "omnitune_varlen"}),
        }
        if RIVAL in bench.libraries:
            runs["sdpa"] = (RIVAL, {})
            if bench.cuda and importlib.util.find_spec("flash_attn") is not None:
                runs["flash"] = (RIVAL, {"attn_implementation": "flash_attention_2"})
        done = {}
        for name, (library, attention) in runs.items():
            bench.forget()
            done[name] = text_steps(bench, library, folder, kind, options, attention, batch, steps)
            done[name]["peak"] = bench.peak() / 1e9
        rates = {name: batch / statistics.median(run["seconds"][1:]) for name, run in done.items()}
        theirs = max((rates[name] for name in runs if runs[name][0] == RIVAL), default=None)
        ours = max(rates["padded"], rates["packed"])
        facts: dict[str, Any] = {name: round(rate, 2) for name, rate in rates.items()}
        for name, one in done.items():
            facts[f"peak_gb_{name}"] = round(one["peak"], 2)
            facts[f"losses_{name}"] = [round(value, 4) for value in one["losses"]]
        bench.report(f"training {what}, batch {batch}", "pairs/s", ours, theirs, **facts)


def text_steps(
    bench: Bench, library: str, folder: Path, kind: str, options: Any, attention: Any, batch: int, steps: int
) -> dict[str, Any]:
    """Some steps on pairs of texts."""
    from datasets import Dataset

    rows = batch * (steps + 1)
    model = bench.load(library, folder, model_kwargs={"dtype": "float32", **attention} if "flash" not in str(attention)
                       else {"dtype": bench.dtype, **attention})  # fmt: skip
    dataset = Dataset.from_dict({"query": texts(rows, median=8, longest=60), "document": texts(rows, seed=1)})
    losses = importlib.import_module(f"{library}.sentence_transformer.losses")
    return trained(bench, library, model, dataset, getattr(losses, kind)(model, **options), batch=batch)
