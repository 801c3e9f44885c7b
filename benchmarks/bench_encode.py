"""Encoding texts of mixed lengths, and pages, in float32.

Promise: pages never slower than the rival; texts at least 1.2 times as fast.

    python benchmarks/bench_encode.py [--quick]
"""

import numpy as np
from support import (
    LIBRARIES,
    MODELS,
    OURS,
    RIVAL,
    alternate,
    make_minilm,
    make_qwen3_vl,
    page_images,
    quick,
    report,
    texts,
)


def main() -> None:
    fast = quick("256 texts and 8 pages instead of 2,048 and 48")
    import importlib

    from PIL import Image

    few, many = (8, 256) if fast else (48, 2048)
    images = [Image.open(path).convert("RGB") for path in page_images(few)]
    jobs = {
        "encoding texts of mixed lengths": (make_minilm(MODELS / "minilm"), texts(many), 1.2),
        "encoding pages": (make_qwen3_vl(MODELS / "qwen3-vl-320"), images, 1.0),
    }
    for metric, (checkpoint, items, promise) in jobs.items():
        models = {
            name: importlib.import_module(name).SentenceTransformer(str(checkpoint), device="cpu") for name in LIBRARIES
        }
        for model in models.values():
            model.encode(items[:4])
        calls = {name: lambda model=model, items=items: model.encode(items) for name, model in models.items()}
        seconds, results = alternate(calls, 3 if fast else 4)
        worst = float(np.abs(results[OURS][0] - results[RIVAL][0]).max())
        assert worst < 1e-4, f"{metric}: embeddings differ by up to {worst}"
        ratios = [b / a for a, b in zip(seconds[OURS], seconds[RIVAL], strict=True)]
        report(metric, ratios, "times the rival's items a second", promise=promise, largest_difference=worst)


if __name__ == "__main__":
    main()
