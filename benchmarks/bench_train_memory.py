"""Peak memory of one training step on page images, as the batch grows, at one activation budget.

Promise: at most 10% more from batch 16 to batch 128. Sentence Transformers holds the prepared pages of the whole batch
during the step, so its peak grows with the batch.

    python benchmarks/bench_train_memory.py [--quick]
"""

import argparse

from support import report, run

BUDGET = 256 * 2**20
WORKER = "benchmarks/train_step.py"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="batches 16 and 64 instead of 16 and 128")
    small, large = 16, 64 if parser.parse_args().quick else 128
    peaks = {}
    for library in ("omnitune", "sentence_transformers"):
        for batch in (small, large):
            peaks[library, batch] = run(WORKER, library=library, batch=batch, activation_memory=BUDGET)
    for batch in (small, large):
        ours, theirs = (peaks[name, batch]["losses"][0] for name in ("omnitune", "sentence_transformers"))
        assert abs(ours - theirs) <= 1e-4 * abs(theirs), f"batch {batch}: losses differ, {ours} and {theirs}"
    growth = {
        name: peaks[name, large]["peak"] / peaks[name, small]["peak"] for name in ("omnitune", "sentence_transformers")
    }
    report(
        f"peak memory of a training step, batch {large} over batch {small}",
        [growth["omnitune"]],
        "ratio",
        rival_value=round(growth["sentence_transformers"], 4),
        megabytes={f"{name} {batch}": round(result["peak"] / 1e6) for (name, batch), result in peaks.items()},
        budget_megabytes=round(BUDGET / 1e6),
    )


if __name__ == "__main__":
    main()
