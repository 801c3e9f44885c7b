"""Time and memory as the batch, the corpus and the image grow: fitted exponents and plots.

An exponent is the slope of log(total) over log(size): 1 is linear, below 1 better, and 0 constant.

    python benchmarks/scaling.py [--quick] [--part batch|corpus|image] [--fresh]

Every point is measured in a process of its own and noted in `runs/scaling/` at once: a run that was stopped goes on,
and `--fresh` measures again. Writes `docs/scaling.md` and `docs/images/scaling-*.png`; with `--quick`, which has fewer
and smaller points, both into `runs/scaling/quick/`. The whole takes about 7 minutes of one core.
"""

import argparse
import dataclasses
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support import MODELS, OURS, ROOT, make_qwen3_vl, page_images, run

BUDGET = 256 * 2**20
"""Bytes of kept graphs in a training step."""

STEP_PIXELS = 192
QUERIES, DIM = 64, 384
PAGES = 4
ROUNDS = 3

HEAD = """# Scaling

Written by `benchmarks/scaling.py`{mode}. The machine has two cores and no GPU; only exponents carry over to another.
An exponent is the slope of log(total) over log(size), fitted to all points, and between the two largest in brackets: 1
is linear, 0 constant. Memory is what the work adds to a process that has loaded the model.

"""


OTHERS = "## Search, one query at a time"
"""Heading of what other benchmarks measured; it and what follows is kept as it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that grows.

    Attributes:
        title: What is measured.
        size: Name of what grows, and unit.
        item: What the time is divided by, in the singular.
        sizes: Points.
        quick: Points of a short run.
        measure: Seconds, bytes added to the process, and items, at a size; called in a process of its own.
        note: What to know when reading the numbers.
    """

    title: str
    size: str
    item: str
    sizes: Sequence[int]
    quick: Sequence[int]
    measure: Callable[[int], dict[str, float]]
    note: str


def batch(size: int) -> dict[str, float]:
    """One training step; a second one would hold the optimizer's state as well."""
    done = run(
        "benchmarks/train_steps.py",
        library=OURS,
        batch=size,
        pixels=STEP_PIXELS,
        mini_batch=8,
        activation_memory=BUDGET,
    )
    return {"seconds": done["seconds"][0], "bytes": done["peak"] - done["before"], "items": size}


def corpus(size: int) -> dict[str, float]:
    """The best 10 of so many vectors for some queries."""
    import torch

    from omnitune.evaluation.ranking import retrieve
    from omnitune.ops.similarity import dot_score

    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(QUERIES, DIM, generator=generator)
    retrieve(queries, [torch.randn(100, DIM)], dot_score, 10)
    before = peak()
    documents = torch.randn(size, DIM, generator=generator)
    seconds = timed(lambda: retrieve(queries, documents.split(50_000), dot_score, 10))
    return {"seconds": seconds, "bytes": peak() - before, "items": size}


def image(pixels: int) -> dict[str, float]:
    """Some pages, rendered and encoded so large."""
    from PIL import Image

    from omnitune import SentenceTransformer

    side = math.isqrt(pixels)
    model = SentenceTransformer(str(make_qwen3_vl(MODELS / f"qwen3-vl-{side}", pixels=side)), device="cpu")
    images = [Image.open(path).convert("RGB") for path in page_images(PAGES, side)]
    model.encode([picture.resize((64, 64)) for picture in images])
    before = peak()
    seconds = timed(lambda: model.encode(images, batch_size=PAGES))
    return {"seconds": seconds, "bytes": peak() - before, "items": PAGES}


PARTS = {
    "batch": Part(
        title="Training step on page images",
        size="pages a batch",
        item="page",
        sizes=(16, 32, 64, 128, 256, 512),
        quick=(16, 32, 64),
        measure=batch,
        note=f"A Qwen3-VL of 35M weights on pages of at most {STEP_PIXELS}x{STEP_PIXELS} pixels, MatryoshkaLoss over "
        f"CachedMultipleNegativesRankingLoss, {BUDGET >> 20} MB for kept graphs; what does not fit is replayed.",
    ),
    "corpus": Part(
        title="Exact search",
        size="vectors in the corpus",
        item="vector",
        sizes=(1_000, 10_000, 100_000, 1_000_000),
        quick=(1_000, 10_000, 100_000),
        measure=corpus,
        note=f"The best 10 of the corpus for {QUERIES} queries at once, {DIM} dimensions in float32; the memory is the "
        "corpus itself and the scores of one chunk.",
    ),
    "image": Part(
        title="Encoding a page image",
        size="pixels an image",
        item="page",
        sizes=tuple(side * side for side in (128, 224, 320, 448, 640)),
        quick=tuple(side * side for side in (128, 224, 320)),
        measure=image,
        note=f"The same model without gradients, {PAGES} pages at a time.",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="batches to 64, corpora to 100,000, images to 320x320")
    parser.add_argument("--part", choices=PARTS, help="measure this part alone")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--point", type=int, help="measure one size of --part in this process")
    options = parser.parse_args()
    if options.point is not None:
        print(json.dumps(PARTS[options.part].measure(options.point)))
        return
    for name in [options.part] if options.part else PARTS:
        for size in sizes(name, options.quick):
            note = noted(name, size)
            if note.exists() and not options.fresh:
                continue
            start = time.perf_counter()
            found = run("benchmarks/scaling.py", part=name, point=size)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps({"size": size, **found}))
            print(f"{name} {size:,}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    write(options.quick)


def sizes(name: str, quick: bool) -> Sequence[int]:
    return PARTS[name].quick if quick else PARTS[name].sizes


def noted(name: str, size: int) -> Path:
    return ROOT / "runs" / "scaling" / f"{name}-{size}.json"


def write(quick: bool) -> None:
    """The page and its plots, of what was measured so far."""
    folder = ROOT / "runs" / "scaling" / "quick" if quick else ROOT / "docs"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    text = HEAD.format(mode=", in its short form" if quick else "")
    for name, part in PARTS.items():
        points = [json.loads(noted(name, s).read_text()) for s in sizes(name, quick) if noted(name, s).exists()]
        if len(points) < 2:
            continue
        slopes = {key: slope_text(points, key) for key in ("seconds", "bytes")}
        plot(part, points, slopes, folder / "images" / f"scaling-{name}.png")
        text += f"## {part.title}\n\n{part.note}\n\n![{part.title}](images/scaling-{name}.png)\n\n"
        text += (
            f"| {part.size} | seconds | milliseconds a {part.item} | MB | kB a {part.item} |\n|---|---|---|---|---|\n"
        )
        for p in points:
            values = (p["seconds"], 1e3 * p["seconds"] / p["items"], p["bytes"] / 1e6, p["bytes"] / p["items"] / 1e3)
            text += f"| {p['size']:,} | {' | '.join(map(plain, values))} |\n"
        text += f"| **exponent** | **{slopes['seconds']}** | | **{slopes['bytes']}** | |\n\n"
        print(
            json.dumps({"metric": part.title, "exponent_time": slopes["seconds"], "exponent_memory": slopes["bytes"]})
        )
    page = folder / "scaling.md"
    _, found, others = (page.read_text() if page.exists() else "").partition(OTHERS)
    page.write_text(text.rstrip() + "\n" + (f"\n{found}{others}" if found else ""))


def plain(value: float) -> str:
    """Three digits, without an exponent where the number is large."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def slope_text(points: Sequence[dict[str, float]], key: str) -> str:
    pairs = [(p["size"], max(p[key], 1e-9)) for p in points]
    return f"{exponent(pairs):.2f} ({exponent(pairs[-2:]):.2f})"


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x."""
    xs, ys = ([math.log(value) for value in column] for column in zip(*points, strict=True))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def plot(part: Part, points: Sequence[dict[str, float]], slopes: dict[str, str], path: Path) -> None:
    """Time an item and memory over size, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    figure.suptitle(part.title, fontsize=11)
    shown = (
        (f"milliseconds a {part.item}", "seconds", lambda p: 1e3 * p["seconds"] / p["items"]),
        ("MB", "bytes", lambda p: p["bytes"] / 1e6),
    )
    for axes, (label, key, value) in zip(figure.subplots(1, 2), shown, strict=True):
        xs, ys = [p["size"] for p in points], [value(p) for p in points]
        axes.loglog(xs, ys, marker="o", color="#3b6ea5")
        middle = math.sqrt(min(ys) * max(ys))
        axes.set_ylim(min(min(ys), middle / 4) / 1.5, max(max(ys), middle * 4) * 1.5)  # flat looks flat
        axes.set(xlabel=part.size, ylabel=label)
        axes.set_title(f"total grows with exponent {slopes[key]}", fontsize=9)
        axes.set_xticks(xs, [f"{x:,}" for x in xs], fontsize=8)
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call: the median of some, without the first."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def peak() -> int:
    """Most bytes that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
