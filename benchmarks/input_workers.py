"""Threads or processes: which prepares pages faster beside a model that computes? And how many cores feed a GPU?

Pages are decoded, resized and cut into patches by two workers of either kind while the main thread multiplies matrices,
as a backward pass does. A ratio above 1 is for threads. Core milliseconds a page are those of one thread alone.

    python benchmarks/input_workers.py [--quick] [--pixels 768]
"""

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
import torch.multiprocessing as shared
from support import MODELS, make_qwen3_vl, page_images, report

WORKERS = 2
PIXELS = "OMNITUNE_BENCHMARK_PIXELS"
"""Variable that tells workers, which import this file anew, the side of the largest page."""

TOGETHER = 4

_model: Any = None


def model() -> Any:
    """The model of this process, loaded once."""
    global _model
    if _model is None:
        from omnitune import SentenceTransformer

        torch.set_num_threads(1)
        _model = SentenceTransformer(str(MODELS / f"qwen3-vl-{os.environ[PIXELS]}"), device="cpu")
    return _model


def prepared(paths: list[str]) -> dict[str, Any]:
    """Features of some pages; a process sends them through shared memory."""
    return dict(model().preprocess(paths))


def timed(pool: Executor, batches: list[list[str]], computing: bool) -> tuple[float, int]:
    """Seconds until all pages are prepared, and products that the main thread made meanwhile."""
    left, right = torch.randn(2, 512, 512)
    start, products = time.perf_counter(), 0
    futures = [pool.submit(prepared, batch) for batch in batches]
    while computing and not all(future.done() for future in futures):
        left @ right
        products += 1
    assert sum(len(future.result()["image_grid_thw"]) for future in futures) == sum(map(len, batches))
    return time.perf_counter() - start, products


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="12 pages instead of 48")
    parser.add_argument("--pixels", type=int, default=768, help="side of the largest page")
    options = parser.parse_args()
    fast, side = options.quick, options.pixels
    os.environ[PIXELS] = str(side)
    shared.set_sharing_strategy("file_system")
    torch.set_num_threads(1)
    make_qwen3_vl(MODELS / f"qwen3-vl-{side}", pixels=side)
    paths = [str(path) for path in page_images(12 if fast else 48, side)]
    batches = [paths[i : i + TOGETHER] for i in range(0, len(paths), TOGETHER)]
    kinds: dict[str, Callable[[], Executor]] = {
        "threads": lambda: ThreadPoolExecutor(WORKERS),
        "processes": lambda: ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")),
    }
    prepared(paths[:1])
    alone = -time.thread_time()
    for batch in batches:
        prepared(batch)
    alone = 1000 * (alone + time.thread_time()) / len(paths)
    report(f"core milliseconds to prepare a page of {side}x{side} at most", [alone], "ms",
           pages_a_core_second=round(1000 / alone, 1))  # fmt: skip
    pools = {name: make() for name, make in kinds.items()}
    seconds: dict[tuple[str, bool], list[float]] = {}
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for name, pool in pools.items():
        timed(pool, batches[: 2 * WORKERS], False)  # a process loads its libraries
        seconds |= {(name, computing): [] for computing in (False, True)}
    for _ in range(3):
        for name, pool in pools.items():
            for computing in (False, True):
                took, products = timed(pool, batches, computing)
                seconds[name, computing].append(took)
                if computing:
                    rates[name].append(products / took)
    for pool in pools.values():
        pool.shutdown()
    for computing, what in ((False, "alone"), (True, "beside a model")):
        ratios = [b / a for a, b in zip(seconds["threads", computing], seconds["processes", computing], strict=True)]
        facts = {f"pages_a_second_{name}": round(len(paths) / min(seconds[name, computing]), 1) for name in kinds}
        report(f"pages of {side}x{side} prepared by threads {what}", ratios, "times those by processes", **facts)
    ratios = [a / b for a, b in zip(rates["threads"], rates["processes"], strict=True)]
    report("matrix products beside threads that prepare pages", ratios, "times those beside processes")


if __name__ == "__main__":
    main()
