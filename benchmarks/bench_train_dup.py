"""Steps a second where every page is the positive of five queries.

Promise: at least 2 times the rival's: a page of a batch is encoded once, with the same loss. A batch holds all five
queries of its pages, and every mini-batch is replayed by both, so that nothing else differs.

    python benchmarks/bench_train_dup.py [--quick]
"""

from support import quick, report, step_ratios, training


def main() -> None:
    fast = quick("1 round of 3 steps at batch 20 instead of 2 of 3 at batch 40")
    # One batch an epoch: of a shuffled epoch of several, a batch would hold about two queries of a page.
    done = training(
        1 if fast else 2,
        batch=20 if fast else 40,
        steps=1,
        epochs=3,
        mini_batch=8,
        queries_per_page=5,
        ours={"activation_memory": 0},
    )
    report(
        "training on pages, 5 queries a page, every mini-batch replayed",
        step_ratios(done),
        "times the rival's steps a second",
        promise=2,
    )


if __name__ == "__main__":
    main()
