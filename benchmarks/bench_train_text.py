"""Tokens a second on pairs of texts whose lengths are lognormal (sigma 1.1), with a model of MiniLM's shape.

Promise: at least 1.5 times the rival's at its best setting. Both see the same pairs in the same steps, so the ratio of
seconds is the ratio of tokens a second.

    python benchmarks/bench_train_text.py [--quick]
"""

from support import quick, report, step_ratios, training

RIVAL_SETTINGS = {
    "in one pass": {"mini_batch": 0},
    "32 items": {"mini_batch": 32},
    "4,096 tokens": {"mini_batch_tokens": 4096},
}


def main() -> None:
    batch = 64 if quick("batch 64 instead of 256") else 256
    ratios = {
        name: step_ratios(
            training(1, rival=setting, ours={"mini_batch": 0}, tolerance=2e-5, data="texts", batch=batch, steps=3)
        )
        for name, setting in RIVAL_SETTINGS.items()
    }
    best = min(ratios, key=lambda name: sum(ratios[name]))
    report(
        f"training on texts of lognormal length, batch {batch}",
        ratios[best],
        "times the rival's tokens a second",
        promise=1.5,
        rival_setting=best,
        others={name: round(min(values), 2) for name, values in ratios.items() if name != best},
    )


if __name__ == "__main__":
    main()
