"""Texts of lognormal length (sigma 1.1) in packed rows: against the same batches padded, and against the rival.

Nothing is promised: packed rows are opt-in, and this says what they are worth on this machine. Outputs and losses are
compared first. The rival trains in one pass, its default.

    python benchmarks/bench_packed.py [--quick]
"""

import importlib
from typing import Any

import numpy as np
from support import LIBRARIES, MODELS, OURS, RIVAL, alternate, make_minilm, quick, report, run, texts

PACKED = {"attn_implementation": "omnitune_varlen"}


def main() -> None:
    fast = quick("256 texts and 2 rounds instead of 2,048 and 4; one round of batch 64 instead of two of 256")
    encoding(256 if fast else 2048, 2 if fast else 4)
    training(64 if fast else 256, 1 if fast else 2)


def encoding(count: int, rounds: int) -> None:
    checkpoint, items = str(make_minilm(MODELS / "minilm")), texts(count)
    padded, rival = (importlib.import_module(name).SentenceTransformer(checkpoint, device="cpu") for name in LIBRARIES)
    packed = importlib.import_module(OURS).SentenceTransformer(checkpoint, device="cpu", model_kwargs=PACKED)
    models = {"packed": packed, OURS: padded, RIVAL: rival}
    for model in models.values():
        model.encode(items[:4])
    calls = {name: lambda model=model: model.encode(items) for name, model in models.items()}
    seconds, results = alternate(calls, rounds)
    worst = max(float(np.abs(results["packed"][0] - results[name][0]).max()) for name in LIBRARIES)
    assert worst < 1e-5, f"embeddings differ by up to {worst}"
    compare("encoding texts in packed rows", seconds, largest_difference=worst)


def training(batch: int, rounds: int) -> None:
    options = {"data": "texts", "batch": batch, "steps": 3, "mini_batch": 0}
    runs: dict[str, dict[str, Any]] = {
        "packed": {"library": OURS, "attention": PACKED["attn_implementation"]},
        OURS: {"library": OURS},
        RIVAL: {"library": RIVAL},
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        losses = {}
        for name, own in runs.items():
            done = run("benchmarks/train_steps.py", **options, **own)
            seconds[name] += done["seconds"][1:]
            losses[name] = done["losses"]
        far = max(abs(a - b) / b for name in LIBRARIES for a, b in zip(losses["packed"], losses[name], strict=True))
        assert far < 2e-5, f"losses differ: {losses}"
    compare(f"training on texts in packed rows, batch {batch}", seconds, losses=losses["packed"])


def compare(metric: str, seconds: dict[str, list[float]], **facts: Any) -> None:
    """Report the padded's seconds over the packed's, and beside it the rival's."""
    against = {name: [b / a for a, b in zip(seconds["packed"], seconds[name], strict=True)] for name in LIBRARIES}
    rival = sorted(against[RIVAL])
    report(
        metric, against[OURS], "times our own speed with padding",
        times_the_rival=[round(rival[0], 3), round(rival[-1], 3)], **facts,
    )  # fmt: skip


if __name__ == "__main__":
    main()
