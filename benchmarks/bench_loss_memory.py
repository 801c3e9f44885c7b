"""Peak memory of the loss itself: 32,768 pairs of 384 dimensions, forward and backward, without a model.

Promise: below 2 GB over the embeddings. The scores of all queries and documents at once would take 4.3 GB, and their
gradient as much again.

    python benchmarks/bench_loss_memory.py [--quick]
"""

import argparse
import json
import time

from support import OURS, RIVAL, report, run

ROWS, DIM = 32_768, 384


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="times compared at 1,024 pairs instead of 4,096")
    parser.add_argument("--worker", choices=(OURS, RIVAL))
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(step(options.worker, options.rows)))
        return
    script = "benchmarks/bench_loss_memory.py"
    whole = run(script, worker=OURS, rows=ROWS)
    report(f"memory of the loss over {ROWS:,} pairs", [whole["bytes"] / 1e9], "GB", promise=2.0)
    rows = 1_024 if options.quick else 4_096
    pairs = [(run(script, worker=OURS, rows=rows), run(script, worker=RIVAL, rows=rows)) for _ in range(2)]
    for ours, theirs in pairs:
        assert abs(ours["loss"] - theirs["loss"]) < 1e-5 * abs(theirs["loss"]), f"{ours} and {theirs}"
        assert abs(ours["norm"] - theirs["norm"]) < 1e-4 * theirs["norm"], f"{ours} and {theirs}"
    report(
        f"the loss alone over {rows:,} pairs, mini-batches of 32",
        [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs],
        "times as fast as the rival",
    )


def step(library: str, rows: int) -> dict[str, float]:
    """Loss, norm of its gradient, seconds, and bytes over the embeddings."""
    import torch
    from train_steps import peak

    torch.manual_seed(0)
    queries = torch.randn(rows, DIM, requires_grad=True)
    documents = (queries.detach() + torch.randn(rows, DIM)).requires_grad_()
    seconds, before = -time.perf_counter(), peak()
    if library == OURS:
        from omnitune.losses import MultipleNegativesRankingLoss
        from omnitune.types import Embeddings

        seconds, before = -time.perf_counter(), peak()
        loss = MultipleNegativesRankingLoss(torch.nn.Identity()).objective(
            [Embeddings(queries), Embeddings(documents)], None
        )
        loss.backward()
    else:
        from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

        made = CachedMultipleNegativesRankingLoss(torch.nn.Sequential(torch.nn.Identity()), mini_batch_size=32)
        parts = [list(column.split(32)) for column in (queries, documents)]
        seconds, before = -time.perf_counter(), peak()
        loss = made.calculate_loss(parts, with_backward=True)
    seconds += time.perf_counter()
    return {"loss": float(loss), "norm": float(queries.grad.norm()), "seconds": seconds, "bytes": peak() - before}


if __name__ == "__main__":
    main()
