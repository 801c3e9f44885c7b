"""The evaluators' own time, without encoding: thresholds of pairs, candidates of queries, close pairs, communities.

Both libraries get the same vectors and must report the same numbers.

    python benchmarks/bench_evaluators.py [--quick]
"""

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from support import NoCard, report

DIM = 64


class Vectors:
    """Stands for a model: item i is vector i, so that only the evaluator is timed."""

    similarity_fn_name = "cosine"
    model_card_data = NoCard()

    def __init__(self, items: int) -> None:
        self.vectors = torch.randn(items, DIM, generator=torch.Generator().manual_seed(0))

    def encode(self, inputs, convert_to_tensor=False, **_kwargs):
        found = self.vectors[torch.tensor([int(item) for item in inputs])]
        return found if convert_to_tensor else found.numpy()

    encode_query = encode_document = encode


def cases(size: int) -> dict[str, Callable]:
    """What to run with a library's `evaluation` and `util`, by name."""
    draw = np.random.default_rng(0)
    pairs = 20 * size
    model = Vectors(2 * pairs)
    labels = (draw.random(pairs) < 0.3).astype(int).tolist()
    sides = [str(i) for i in range(pairs)], [str(i + pairs) for i in range(pairs)]
    samples = [
        {
            "query": str(i),
            "positive": [str(j) for j in draw.integers(0, pairs, 3)],
            "negative": [str(j) for j in draw.integers(0, pairs, 47)],
        }
        for i in range(size // 5)
    ]
    sentences = {f"s{i}": str(i) for i in range(size)}
    duplicates = [(f"s{a}", f"s{b}") for a, b in draw.integers(0, size, (size, 2))]
    centres = torch.randn(size // 40, DIM, generator=torch.Generator().manual_seed(1))
    groups = centres.repeat(40, 1) + 0.4 * torch.randn(len(centres) * 40, DIM)
    return {
        f"binary classification, {pairs:,} pairs": lambda library: library.evaluation.BinaryClassificationEvaluator(
            *sides, labels, write_csv=False
        )(model),
        f"reranking, {len(samples):,} queries of 50": lambda library: library.evaluation.RerankingEvaluator(
            samples, write_csv=False
        )(model),
        f"paraphrase mining, {size:,} sentences": lambda library: library.evaluation.ParaphraseMiningEvaluator(
            sentences, duplicates, write_csv=False
        )(model),
        f"communities, {len(groups):,} vectors": lambda library: {
            "members": float(sum(len(group) for group in library.util.community_detection(groups, 0.7)))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a fifth of the size, two rounds")
    quick = parser.parse_args().quick

    import sentence_transformers
    import sentence_transformers.sentence_transformer.evaluation as their_evaluation

    import omnitune

    theirs = SimpleNamespace(evaluation=their_evaluation, util=sentence_transformers.util)
    for name, run in cases(2_000 if quick else 10_000).items():
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        found = {}
        for _ in range(2 if quick else 3):
            for who, library in (("ours", omnitune), ("theirs", theirs)):
                start = time.perf_counter()
                found[who] = run(library)
                seconds[who].append(time.perf_counter() - start)
        assert found["ours"].keys() == found["theirs"].keys()
        worst = max(abs(found["ours"][key] - value) for key, value in found["theirs"].items())
        assert worst < 1e-6, f"{name}: results differ by up to {worst}"
        report(
            name,
            [b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)],
            "times faster than the rival",
            seconds={who: round(min(values), 3) for who, values in seconds.items()},
        )


if __name__ == "__main__":
    main()
