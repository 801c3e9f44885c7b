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
    fast = quick("batch 64 instead of 256, the rival at the setting that was its best")
    batch, steps = (64, 3) if fast else (256, 3)
    settings = {k: v for k, v in RIVAL_SETTINGS.items() if not fast or k == "in one pass"}
    ratios = {
        name: step_ratios(
            training(1, rival=setting, ours={"mini_batch": 0}, tolerance=2e-5, data="texts", batch=batch, steps=steps)
        )
        for name, setting in settings.items()
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
