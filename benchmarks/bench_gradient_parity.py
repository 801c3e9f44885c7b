"""Largest difference of gradients between kept, replayed and direct, for losses over texts and pages.

Promise: at most 1e-5 in float32. Direct is one forward over a whole column; the rival's own loss is measured beside it.

    python benchmarks/bench_gradient_parity.py [--quick]
"""

import importlib
from typing import Any

from support import MODELS, OURS, RIVAL, make_minilm, make_qwen3_vl, page_images, quick, report, texts


def main() -> None:
    fast = quick("8 rows instead of 16")
    from PIL import Image

    rows = 8 if fast else 16
    pages = [Image.open(path).convert("RGB") for path in page_images(rows)]
    query = texts(rows, median=8)
    jobs: dict[str, tuple[Any, str, list[list[Any]]]] = {
        "text": (make_minilm(MODELS / "minilm"), "MultipleNegativesRankingLoss", [query, texts(rows, seed=1)]),
        "text, triplets": (
            make_minilm(MODELS / "minilm"),
            "TripletLoss",
            [query, texts(rows, seed=1), texts(rows, seed=2)],
        ),
        "pages": (make_qwen3_vl(MODELS / "qwen3-vl-320"), "MultipleNegativesRankingLoss", [query, pages]),
    }
    for name, (checkpoint, loss, columns) in jobs.items():
        model = importlib.import_module(OURS).SentenceTransformer(str(checkpoint), device="cpu")
        theirs = importlib.import_module(RIVAL).SentenceTransformer(str(checkpoint), device="cpu")
        kept, replayed = (mine(model, loss, columns, memory) for memory in ("auto", 0))
        direct = gradients(theirs, importlib.import_module(f"{RIVAL}.sentence_transformer.losses"), loss, columns)
        worst = [difference(a, b) for a, b in ((kept, direct), (replayed, direct), (kept, replayed))]
        report(f"gradients of kept, replayed and direct: {name}", [max(worst)], "largest difference", promise=1e-5)
        assert max(worst) <= 1e-5, f"{name}: {worst}"


def mine(model: Any, loss: str, columns: list[list[Any]], memory: Any) -> dict[str, Any]:
    from omnitune import losses
    from omnitune.losses import Strategy
    from omnitune.types import Column

    made = getattr(losses, loss)(model)
    made.strategy = Strategy(mini_batch_size=3, activation_memory=memory)
    model.zero_grad()
    made([Column(name=f"c{i}", items=items) for i, items in enumerate(columns)]).backward()
    assert (made.strategy.last_replayed == 0) == (memory == "auto")
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gradients(model: Any, losses: Any, loss: str, columns: list[list[Any]]) -> dict[str, Any]:
    model.train()
    model.zero_grad()
    getattr(losses, loss)(model)([model.preprocess(items) for items in columns], None).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


if __name__ == "__main__":
    main()
