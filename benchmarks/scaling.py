"""Time and memory an item as the batch, the corpus and the image grow, with fitted exponents and plots.

An exponent is the slope of log(total) over log(size): 1 is linear, below 1 better, and 0 constant.

    python benchmarks/scaling.py [--quick]

Writes `docs/scaling.md` and `docs/images/scaling-*.svg`.
"""

import json
import math
import time
from typing import Any

from support import MODELS, OURS, ROOT, make_qwen3_vl, page_images, quick, run

BUDGET = 256 * 2**20
HEAD = """# Scaling

Written by `benchmarks/scaling.py`. The exponent is the slope of log(total) over log(size): 1 is linear, 0 constant.

| what | size | seconds | an item | peak MB | exponent of time | exponent of memory |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    fast = quick("batches to 64, corpora to 100,000 vectors, images to 320 pixels")
    series = {
        "training step, pages a batch": [batch(n) for n in ((16, 32, 64) if fast else (16, 64, 256, 512))],
        "exact search, vectors": [
            corpus(n) for n in ((1_000, 10_000, 100_000) if fast else (1_000, 10_000, 100_000, 1_000_000))
        ],
        "encoding a page, pixels": [pixels(side) for side in ((128, 224, 320) if fast else (128, 224, 320, 448, 640))],
    }
    text = HEAD
    for name, points in series.items():
        slopes = [exponent([(p["size"], p[key]) for p in points]) for key in ("seconds", "peak")]
        for point in points:
            each = point["seconds"] / point["items"]
            text += f"| {name} | {point['size']:,} | {point['seconds']:.3g} | {each:.3g} | {point['peak'] / 1e6:.0f} "
            text += f"| {slopes[0]:.2f} | {slopes[1]:.2f} |\n"
        plot(name, points)
        print(json.dumps({"metric": name, "exponent_time": slopes[0], "exponent_memory": slopes[1], "points": points}))
    (ROOT / "docs" / "scaling.md").write_text(text)


def batch(size: int) -> dict[str, Any]:
    """One training step at one activation budget: seconds and peak memory of its process."""
    done = run("benchmarks/train_steps.py", library=OURS, batch=size, activation_memory=BUDGET)
    return {"size": size, "items": size, "seconds": done["seconds"][0], "peak": done["peak"]}


def corpus(size: int) -> dict[str, Any]:
    """The best 10 of so many vectors for 64 queries."""
    import torch

    from omnitune.evaluation.search import retrieve
    from omnitune.ops.similarity import dot_score

    queries, documents = torch.randn(64, 384), torch.randn(size, 384)
    start = time.perf_counter()
    retrieve(queries, documents.split(50_000), dot_score, 10)
    return {"size": size, "items": size, "seconds": time.perf_counter() - start, "peak": documents.nbytes}


def pixels(side: int) -> dict[str, Any]:
    """Four pages, rendered and encoded so large."""
    import torch
    from PIL import Image

    from omnitune import SentenceTransformer

    model = SentenceTransformer(str(make_qwen3_vl(MODELS / f"qwen3-vl-{side}", pixels=side)), device="cpu")
    images = [Image.open(path).convert("RGB") for path in page_images(4, side)]
    model.encode(images[:1])
    start = time.perf_counter()
    model.encode(images)
    seconds = time.perf_counter() - start
    features = model.preprocess(images)
    held = sum(value.nbytes for value in features.values() if isinstance(value, torch.Tensor))
    return {"size": side * side, "items": len(images), "seconds": seconds, "peak": held}


def exponent(points: list[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x."""
    xs, ys = ([math.log(value) for value in column] for column in zip(*points, strict=True))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def plot(name: str, points: list[dict[str, Any]]) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog([p["size"] for p in points], [p["seconds"] for p in points], marker="o")
    axes.set(xlabel=name, ylabel="seconds")
    slug = "".join(c if c.isalnum() else "-" for c in name.split(",")[0])
    FigureCanvasSVG(figure).print_svg(ROOT / "docs" / "images" / f"scaling-{slug}.svg")


if __name__ == "__main__":
    main()
