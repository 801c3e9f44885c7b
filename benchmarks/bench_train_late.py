"""A step of late interaction with gradient caching: 64 queries and pages of text, a model of MiniLM's shape.

Promise: at least 1.5 times as fast as the rival's cached loss. Graphs are kept where memory allows, documents are
packed, and the scores' backward goes through winners alone. Times are of the processor, so that other work on it does
not count.

    python benchmarks/bench_train_late.py [--quick] [--rounds 3]
"""

import argparse
import json
import time

from support import MODELS, OURS, RIVAL, make_minilm, report, run, texts

ROWS, MINI_BATCH = 64, 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="32 rows and one round instead of 64 and three")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each library")
    parser.add_argument("--worker", choices=(OURS, RIVAL))
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(steps(options.worker, options.rows)))
        return
    rows, rounds = (32, 1) if options.quick else (ROWS, options.rounds)
    script = "benchmarks/bench_train_late.py"
    done = [(run(script, worker=OURS, rows=rows), run(script, worker=RIVAL, rows=rows)) for _ in range(rounds)]
    for ours, theirs in done:
        assert abs(ours["loss"] - theirs["loss"]) < 1e-4 * abs(theirs["loss"]), f"{ours} and {theirs}"
        assert abs(ours["norm"] - theirs["norm"]) < 1e-3 * theirs["norm"], f"{ours} and {theirs}"
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in done]
    report(f"late interaction, cached step of {rows} rows", ratios, "times as fast", promise=1.5)


def steps(library: str, rows: int) -> dict[str, float]:
    """Loss and gradient norm of a step, and seconds of the second of two."""
    import torch

    folder = make_minilm(MODELS / "minilm")
    torch.manual_seed(0)
    queries, pages = texts(rows, median=8, longest=20, seed=1), texts(rows, median=120, sigma=0.6, seed=2)
    if library == OURS:
        from omnitune import MultiVectorEncoder
        from omnitune.losses.multi_vector import CachedMultiVectorMultipleNegativesRankingLoss
        from omnitune.types import Column

        model = MultiVectorEncoder(str(folder), device="cpu")
        columns = [Column(name="query", items=queries), Column(name="page", items=pages)]
    else:
        from sentence_transformers import MultiVectorEncoder
        from sentence_transformers.multi_vector_encoder.losses import CachedMultiVectorMultipleNegativesRankingLoss

        model = MultiVectorEncoder(str(folder), device="cpu")
    torch.manual_seed(1)
    torch.nn.init.normal_(model[1].linear.weight, std=0.05)
    model.train()
    loss = CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=MINI_BATCH)
    value, seconds = None, 0.0
    for _ in range(2):
        model.zero_grad()
        seconds = -time.process_time()
        if library == RIVAL:
            columns = []
            for task, items in (("query", queries), ("document", pages)):
                columns.append({**model.preprocess(items, task=task), "task": task})
        value = loss(columns, None)
        value.backward()
        seconds += time.process_time()
    norm = sum(float(p.grad.norm()) ** 2 for p in model.parameters() if p.grad is not None) ** 0.5
    return {"loss": float(value.detach()), "norm": norm, "seconds": seconds}


if __name__ == "__main__":
    main()
