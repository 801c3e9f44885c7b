"""The parts of `gpu.py`, one a process: prints a line of JSON for every result.

python benchmarks/gpu_parts.py PART --device cuda --out FOLDER [--quick]
"""

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gpu_models
import torch
from gpu_bench import Bench, LeftOutError
from gpu_models import FULL, QUICK, page_pictures
from gpu_train import text, train
from support import OURS, RIVAL, ROOT, texts

# -- right


def right(bench: Bench) -> None:
    """Tests, then the rival's numbers beside ours."""
    numbers_of_both(bench)
    if importlib.util.find_spec("pytest") is None:
        raise LeftOutError("tests/gpu: pytest is not installed; give its wheel with --wheels")
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "tests/gpu"]
    environment = {**os.environ, "OMNITUNE_GPU_TESTS": bench.device.split(":")[0]}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout[-8000:], done.stderr[-2000:], file=sys.stderr, flush=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    counts = {word: int(n) for n, word in zip(last.split(), last.replace(",", "").split()[1:], strict=False)
              if n.isdigit() and word in ("passed", "failed", "skipped", "error", "errors")}  # fmt: skip
    bench.report("tests marked gpu", "passed", counts.pop("passed", 0), **counts, said=last)
    if done.returncode:
        raise SystemExit(f"tests/gpu: {last}")


def numbers_of_both(bench: Bench) -> None:
    """Largest difference of embeddings, in float32 and in bfloat16, of pages and texts."""
    few = bench.sizes.mini_batch
    jobs = {
        "pages": (gpu_models.vision_language(bench.models, bench.sizes, bench.device),
                  page_pictures(few, bench.sizes.side)),
        "texts": (gpu_models.bert(bench.models, bench.sizes, bench.device), texts(64)),
    }  # fmt: skip
    for what, (folder, items) in jobs.items():
        for dtype in ("float32", "bfloat16"):
            found = {}
            for library in bench.libraries:
                model = bench.load(library, folder, model_kwargs={"dtype": dtype})
                found[library] = model.encode(items, batch_size=few, convert_to_tensor=True).float().cpu()
                del model
                bench.forget()
            if RIVAL not in found:
                continue
            ours, theirs = found[OURS], found[RIVAL]
            cosine = torch.nn.functional.cosine_similarity(ours, theirs).min()
            relative = float((ours - theirs).norm() / theirs.norm())
            bench.report(f"embeddings of {what} in {dtype}, relative difference", "1", relative,
                         least_cosine=round(float(cosine), 6))  # fmt: skip


# -- encode


def encode(bench: Bench) -> None:
    """Pages and texts a second, each library at its default."""
    sizes = bench.sizes
    jobs = {}
    folder = gpu_models.vision_language(bench.models, sizes, bench.device)
    jobs["pages"] = (folder, page_pictures(sizes.pages, sizes.side), 16)
    folder = gpu_models.bert(bench.models, sizes, bench.device)
    jobs[f"texts, BERT of {sizes.bert_weights}"] = (folder, texts(sizes.texts), 128)
    for what, (folder, items, batch) in jobs.items():
        rates, peaks, found = {}, {}, {}
        for library in bench.libraries:
            bench.forget()
            model = bench.load(library, folder, model_kwargs={"dtype": bench.dtype})
            model.encode(items[:batch], batch_size=batch)
            work = partial(model.encode, items, batch_size=batch, show_progress_bar=False)
            rates[library] = len(items) / bench.seconds(work, rounds=1)
            peaks[f"peak_gb_{library}"] = round(bench.peak() / 1e9, 2)
            found[library] = torch.as_tensor(model.encode(items[:batch], batch_size=batch)).float()
            del model
        agree = {}
        if RIVAL in found:
            agree["least_cosine"] = round(float(torch.cosine_similarity(found[OURS], found[RIVAL]).min()), 5)
        bench.report(f"encoding {what}", "items/s", rates[OURS], rates.get(RIVAL), **peaks, **agree)


# -- memory


def memory(bench: Bench) -> None:
    """Peak of a training step's forward and backward as the batch grows, at one budget; no optimizer."""
    from omnitune import losses
    from omnitune.types import Column

    sizes = bench.sizes
    folder = gpu_models.vision_language(bench.models, sizes, bench.device)
    model = bench.load(OURS, folder, model_kwargs={"dtype": bench.dtype})
    model.train()
    cached = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=sizes.mini_batch)
    cached.strategy.activation_memory = sizes.budget
    first = None
    for batch in sizes.memory:
        pages = page_pictures(batch, sizes.side // 2)
        columns = [Column(name="q", items=[f"page {i}" for i in range(batch)]), Column(name="d", items=pages)]
        model.zero_grad()
        bench.forget()
        start = time.perf_counter()
        cached(columns).backward()
        bench.wait()
        peak = bench.peak()
        first = peak if first is None else first
        seconds = time.perf_counter() - start
        bench.report(f"peak of a step of {batch:,} pages", "GB", peak / 1e9, over_the_first=round(peak / first, 3),
                     seconds=round(seconds, 2), kept=cached.strategy.last_kept,
                     replayed=cached.strategy.last_replayed)  # fmt: skip


# -- loss


def loss(bench: Bench) -> None:
    """Forward and backward of the loss alone, over embeddings that are there."""
    from omnitune.losses import MultipleNegativesRankingLoss
    from omnitune.types import Embeddings

    rows, dim = bench.sizes.pairs, 1024
    torch.manual_seed(0)
    queries = torch.randn(rows, dim, device=bench.device)
    documents = queries + torch.randn(rows, dim, device=bench.device)
    done: dict[str, tuple[float, float, float]] = {}
    for library in bench.libraries:
        q, d = queries.clone().requires_grad_(), documents.clone().requires_grad_()
        bench.forget()
        before = bench.peak()
        if library == OURS:
            made = MultipleNegativesRankingLoss(torch.nn.Identity())
            value = [0.0]

            def work(made=made, q=q, d=d, value=value) -> None:
                found = made.objective([Embeddings(q), Embeddings(d)], None)
                found.backward()
                value[0] = float(found.detach())
        else:
            losses = importlib.import_module(f"{library}.sentence_transformer.losses")
            theirs = losses.CachedMultipleNegativesRankingLoss(
                torch.nn.Sequential(torch.nn.Identity()), mini_batch_size=256
            )
            value = [0.0]

            def work(theirs=theirs, q=q, d=d, value=value) -> None:
                parts = [list(column.split(256)) for column in (q, d)]
                value[0] = float(theirs.calculate_loss(parts, with_backward=True))

        seconds = bench.seconds(work, rounds=2)
        done[library] = (seconds, (bench.peak() - before) / 1e9, value[0])
    times, peaks, values = ({name: row[i] for name, row in done.items()} for i in range(3))
    bench.report(f"the loss over {rows:,} pairs of {dim} dimensions", "pairs/s", rows / times[OURS],
                 rows / times[RIVAL] if RIVAL in times else None,
                 **{f"gb_{name}": round(value, 3) for name, value in peaks.items()},
                 **{f"loss_{name}": round(value, 5) for name, value in values.items()})  # fmt: skip


# -- late


def late(bench: Bench) -> None:
    """A cached late-interaction step on pages, one vector a token."""
    from omnitune.losses.multi_vector import CachedMultiVectorMultipleNegativesRankingLoss
    from omnitune.types import Column

    sizes = bench.sizes
    folder = gpu_models.vision_language(bench.models, sizes, bench.device)
    pages, queries = page_pictures(sizes.late_batch, sizes.side), texts(sizes.late_batch, median=8, longest=20)
    step: dict[str, float] = {}
    facts: dict[str, Any] = {}
    for library in bench.libraries:
        bench.forget()
        model = bench.load(library, folder, family="MultiVectorEncoder", model_kwargs={"dtype": bench.dtype})
        torch.manual_seed(1)
        with torch.no_grad():
            model[1].linear.weight.copy_(0.05 * torch.randn(model[1].linear.weight.shape))
        model.train()
        if library == OURS:
            made = CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=sizes.mini_batch)
            columns: Any = [Column(name="query", items=queries, role="query"),
                            Column(name="page", items=pages, role="document")]  # fmt: skip
        else:
            losses = importlib.import_module(f"{library}.multi_vector_encoder.losses")
            made = losses.CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=sizes.mini_batch)
            columns = None
        value = 0.0

        def work(library=library, model=model, made=made, columns=columns) -> None:
            nonlocal value
            model.zero_grad()
            if library == RIVAL:
                columns = []
                for task, items in (("query", queries), ("document", pages)):
                    ready = {**model.preprocess(items, task=task), "task": task}
                    columns.append({k: v.to(bench.device) if isinstance(v, torch.Tensor) else v
                                    for k, v in ready.items()})  # fmt: skip
            with torch.autocast(bench.device.split(":")[0], torch.bfloat16, enabled=bench.cuda):
                found = made(columns, None)
            found.backward()
            value = float(found.detach())

        step[library] = bench.seconds(work, rounds=1)
        facts |= {f"loss_{library}": round(value, 4), f"peak_gb_{library}": round(bench.peak() / 1e9, 2)}
        del model, made, work
    batch = sizes.late_batch
    bench.report(f"late interaction on pages, batch {batch}", "samples/s", batch / step[OURS],
                 batch / step[RIVAL] if RIVAL in step else None, **facts)  # fmt: skip


# -- serve


def serve(bench: Bench) -> None:
    """Requests a second of one text each, from many clients at once, and how long half of them and 95% take."""
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise LeftOutError(f"serve: {package} is not installed; give its wheel with --wheels")
    import http.client

    import uvicorn

    from omnitune.serve.app import make_app
    from omnitune.serve.served import Served

    model = bench.load(OURS, gpu_models.bert(bench.models, bench.sizes, bench.device),
                       model_kwargs={"dtype": bench.dtype})  # fmt: skip
    server = uvicorn.Server(
        uvicorn.Config(make_app(Served("model", encoder=model)), host="127.0.0.1", port=0, log_level="warning")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    items, clients, taken = texts(bench.sizes.requests, seed=5), min(32, bench.sizes.requests), []

    def client(mine: Sequence[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for item in mine:
            start = time.perf_counter()
            body = json.dumps({"input": item, "model": "model"})
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            taken.append(time.perf_counter() - start)

    def all_clients() -> None:
        threads = [threading.Thread(target=client, args=(items[i::clients],)) for i in range(clients)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

    try:
        client(items[:4])
        taken.clear()
        start = time.perf_counter()
        all_clients()
        wall = time.perf_counter() - start
        assert len(taken) == len(items), f"{len(taken)} of {len(items)} requests were answered"
        taken.sort()
        bench.report(f"requests of one text, {clients} clients", "requests/s", len(items) / wall,
                     median_ms=round(1e3 * statistics.median(taken), 2),
                     p95_ms=round(1e3 * taken[int(0.95 * (len(taken) - 1))], 2))  # fmt: skip
    finally:
        server.should_exit = True
        thread.join()


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part for part in (right, train, text, encode, memory, loss, late, serve)
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here; a rehearsal is --device cpu --quick")
    bench = Bench(QUICK if options.quick else FULL, options.device, options.out)
    if RIVAL not in bench.libraries:
        bench.left_out("Sentence Transformers is not installed, so nothing is compared with it")
    try:
        PARTS[options.part](bench)
    except LeftOutError as error:
        bench.left_out(str(error))


if __name__ == "__main__":
    main()
