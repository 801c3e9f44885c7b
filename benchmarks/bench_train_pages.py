"""Steps a second on page images: full finetuning, MatryoshkaLoss over CachedMultipleNegativesRankingLoss.

Promise: at least 1.6 times the rival's, both at 8 items a mini-batch, with at most 2.5 times its peak memory and the
same loss at every step.

    python benchmarks/bench_train_pages.py [--quick]
"""

from support import OURS, RIVAL, quick, report, step_ratios, training


def main() -> None:
    fast = quick("batch 16 instead of 32, 2 rounds of 3 steps instead of 3 of 4")
    done = training(2 if fast else 3, batch=16 if fast else 32, steps=3 if fast else 4, mini_batch=8)
    peak = max(a["peak"] / b["peak"] for a, b in zip(done[OURS], done[RIVAL], strict=True))
    report(
        "training on pages, full finetuning",
        step_ratios(done),
        "times the rival's steps a second",
        promise=1.6,
        peak_memory_over_rival=round(peak, 2),
    )
    mixed = training(1 if fast else 3, batch=16 if fast else 32, steps=3, mini_batch=8, widths=4)
    report("training on pages of four widths", step_ratios(mixed), "times the rival's steps a second")


if __name__ == "__main__":
    main()
