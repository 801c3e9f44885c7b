"""What `torch.compile` of the model is worth here: ours and the rival's, as they are and compiled, on one checkpoint.

Not part of `make bench`: compiling takes minutes. `Model.compile` works through `__call__`, which the engine goes
through, so `encode`, evaluation and training run what was compiled.

    python benchmarks/compile_model.py [--quick]
"""

import importlib
import time

import numpy as np
from support import LIBRARIES, MODELS, OURS, RIVAL, alternate, make_minilm, quick, report, texts


def main() -> None:
    count = 128 if quick("128 texts instead of 1,024") else 1024
    checkpoint, items = str(make_minilm(MODELS / "minilm")), texts(count)
    models, first = {}, {}
    for library in LIBRARIES:
        for name in ("eager", "compiled"):
            model = importlib.import_module(library).SentenceTransformer(checkpoint, device="cpu")
            if name == "compiled":
                model.compile(dynamic=True)
            start = time.perf_counter()
            model.encode(items[: count // 4])
            first[f"{library} {name}"] = round(time.perf_counter() - start, 1)
            models[f"{library} {name}"] = model
    seconds, results = alternate({name: lambda m=m: m.encode(items) for name, m in models.items()}, 3)
    worst = max(float(np.abs(found[0] - results[f"{OURS} eager"][0]).max()) for found in results.values())
    assert worst < 1e-4, f"embeddings differ by up to {worst}"
    for library in (OURS, RIVAL):
        pairs = zip(seconds[f"{library} eager"], seconds[f"{library} compiled"], strict=True)
        report(f"encoding texts with {library} compiled", [a / b for a, b in pairs], "times its speed uncompiled",
               first_call_seconds={k: v for k, v in first.items() if k.startswith(library)},
               largest_difference=worst)  # fmt: skip
    pairs = zip(seconds[f"{OURS} eager"], seconds[f"{RIVAL} compiled"], strict=True)
    report("encoding texts, ours uncompiled", [b / a for a, b in pairs], "times the rival's speed compiled")


if __name__ == "__main__":
    main()
