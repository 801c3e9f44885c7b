"""The retrieval evaluator's own time: ranking and metrics, without encoding.

Both evaluators rank the same vectors (with duplicates, so that scores tie) and must report the same metrics.

    python benchmarks/bench_evaluate_retrieval.py [--quick]
"""

import argparse
import time

import numpy as np
import torch
from support import NoCard, report

DIM = 128


class Vectors:
    """Stands for a model: gives ready vectors, so that only the evaluator is timed."""

    similarity_fn_name = "cosine"
    model_card_data = NoCard()

    def __init__(self, queries: int, documents: int, similarity) -> None:
        generator = torch.Generator().manual_seed(0)
        self.queries = torch.randn(queries, DIM, generator=generator)
        self.documents = torch.randn(documents, DIM, generator=generator)
        self.documents[::50] = self.documents[1::50]
        self.similarity = similarity

    def encode_query(self, _inputs, **_kwargs):
        return self.queries

    def encode_document(self, inputs, **_kwargs):
        return self.documents[int(inputs[0]) : int(inputs[-1]) + 1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="30,000 documents instead of 100,000")
    queries, documents = 1_000, 30_000 if parser.parse_args().quick else 100_000

    import sentence_transformers.sentence_transformer.evaluation as theirs
    from sentence_transformers.util import cos_sim

    from omnitune import evaluation as ours

    draw = np.random.default_rng(0)
    corpus = {f"d{i:06d}": str(i) for i in range(documents)}
    asked = {f"q{i}": str(i) for i in range(queries)}
    relevant = {query: {f"d{i:06d}" for i in draw.integers(0, documents, 3)} for query in asked}
    model = Vectors(queries, documents, cos_sim)
    evaluators = {
        "ours": ours.InformationRetrievalEvaluator(asked, corpus, relevant, write_csv=False),
        "theirs": theirs.InformationRetrievalEvaluator(asked, corpus, relevant, write_csv=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in evaluators}
    found = {}
    for _ in range(4):
        for name, evaluator in evaluators.items():
            start = time.perf_counter()
            found[name] = evaluator(model)
            seconds[name].append(time.perf_counter() - start)
    assert found["ours"].keys() == found["theirs"].keys()
    worst = max(abs(found["ours"][key] - value) for key, value in found["theirs"].items())
    assert worst < 1e-9, f"metrics differ by up to {worst}"
    report(
        f"retrieval evaluator, {queries:,} queries against {documents:,} documents",
        [b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)],
        "times faster than the rival",
        seconds={name: round(min(values), 3) for name, values in seconds.items()},
    )


if __name__ == "__main__":
    main()
