"""Peak memory of one training step on page images, as the batch grows, at one activation budget.

Promise: at most 10% more from the small batch to the large one. Sentence Transformers holds the prepared pages of the
whole batch during the step, so its peak grows with the batch.

    python benchmarks/bench_train_memory.py [--quick]
"""

from support import LIBRARIES, OURS, RIVAL, quick, report, training

BUDGET = 256 * 2**20


def main() -> None:
    small, large = 16, 64 if quick("batches 16 and 64 instead of 16 and 128") else 128
    runs = {
        batch: training(1, ours={"activation_memory": BUDGET}, tolerance=1e-4, batch=batch) for batch in (small, large)
    }
    peaks = {(name, batch): done[name][0]["peak"] for batch, done in runs.items() for name in LIBRARIES}
    growth = {name: peaks[name, large] / peaks[name, small] for name in LIBRARIES}
    report(
        f"peak memory of a training step, batch {large} over batch {small}",
        [growth[OURS]],
        "ratio",
        rival_value=round(growth[RIVAL], 4),
        megabytes={f"{name} {batch}": round(value / 1e6) for (name, batch), value in peaks.items()},
        budget_megabytes=round(BUDGET / 1e6),
    )


if __name__ == "__main__":
    main()
