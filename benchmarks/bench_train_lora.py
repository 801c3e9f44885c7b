"""Steps a second from the second epoch on: LoRA on the language model, the vision tower frozen.

Promise: at least 5 times the rival's, same loss. The tower's outputs are computed in the first epoch and kept.

    python benchmarks/bench_train_lora.py [--quick]
"""

from support import quick, report, step_ratios, training


def main() -> None:
    fast = quick("batch 16 instead of 32, 1 round instead of 2")
    done = training(1 if fast else 2, batch=16 if fast else 32, steps=2, epochs=3, mini_batch=8, lora=8)
    report(
        "training on pages, LoRA on the language model, epochs 2 and 3",
        step_ratios(done, first=2),
        "times the rival's steps a second",
        promise=5,
        first_epoch=[round(ratio, 2) for ratio in step_ratios(done, first=0)[:2]],
    )


if __name__ == "__main__":
    main()
