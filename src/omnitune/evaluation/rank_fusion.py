"""Quality of two rankings together, fused by reciprocal ranks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from omnitune import io
from omnitune.errors import InputError
from omnitune.evaluation.base import BaseEvaluator
from omnitune.ops.metrics import ranking_metrics

_NAMES = {"dense_": "Dense", "sparse_": "Sparse", "": "Fusion"}


class ReciprocalRankFusionEvaluator(BaseEvaluator):
    """MAP, MRR and NDCG of a dense ranking, of a sparse one, and of both by the sum of `1 / (rrf_k + rank)`.

    It measures rankings, not a model, so it is called without one. A relevant document that no ranking holds counts as
    found last.

    Args:
        dense_samples: Of every query its `query_id`, `query`, `positive` (a document or a list of them) and
            `documents`, best first.
        sparse_samples: The same of another retriever, in the same order.
        at_k: Cut-off of MRR and NDCG.
        rrf_k: Added to every rank, counted from 1; the larger, the less the first places count.
        name: Put before every metric.
        batch_size: Accepted for compatibility.
        show_progress_bar: Accepted for compatibility.
        write_csv: Whether a call adds a row to the CSV file in its output folder.
        write_predictions: Whether a call writes the fused rankings as JSON Lines to its output folder.

    Raises:
        InputError: The samples are not those of the same queries, in the same order, or there are none.

    Source:
        Cormack et al. 2009, Reciprocal Rank Fusion.

    Example:
        >>> one = {"query_id": "q", "query": "grease", "positive": ["a"], "documents": ["b", "a"]}
        >>> other = {**one, "documents": ["a", "c"]}
        >>> ReciprocalRankFusionEvaluator([one], [other])()["ndcg@10"]
        1.0
    """

    def __init__(
        self,
        dense_samples: Sequence[Mapping[str, Any]],
        sparse_samples: Sequence[Mapping[str, Any]],
        at_k: int = 10,
        rrf_k: int = 60,
        name: str = "",
        batch_size: int = 32,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        write_predictions: bool = False,
    ) -> None:
        super().__init__()
        if len(dense_samples) != len(sparse_samples) or not len(dense_samples):
            raise InputError(
                "dense_samples, sparse_samples: expected equally many, and at least one of each, got "
                f"{len(dense_samples)} and {len(sparse_samples)}"
            )
        for place, pair in enumerate(zip(dense_samples, sparse_samples, strict=True)):
            for side, sample in zip(("dense_samples", "sparse_samples"), pair, strict=True):
                if missing := [key for key in ("query_id", "query", "positive", "documents") if key not in sample]:
                    raise InputError(f"{side}[{place}]: expected the keys query_id to documents, got no {missing}")
            ids = [sample["query_id"] for sample in pair]
            if ids[0] != ids[1]:
                raise InputError(
                    f"sparse_samples[{place}]: expected query_id {ids[0]!r} as in dense_samples, got {ids[1]!r}"
                )
        self.dense_samples, self.sparse_samples = dense_samples, sparse_samples
        self.at_k, self.rrf_k, self.name = at_k, rrf_k, name
        self.batch_size, self.show_progress_bar = batch_size, show_progress_bar
        self.write_csv, self.write_predictions = write_csv, write_predictions
        stem = "ReciprocalRankFusion_evaluation" + (f"_{name}" if name else "")
        self.csv_file, self.predictions_file = f"{stem}_results.csv", f"{stem}_predictions.jsonl"
        self.primary_metric = f"ndcg@{at_k}"

    def __call__(  # type: ignore[override]  # no model is measured
        self, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Fuse, measure, record the results, and return them.

        Args:
            output_path: Folder of the CSV file and the fused rankings; None writes nothing.
            epoch: Epoch of a training run, -1 outside one.
            steps: Step within it, -1 at its end.

        Returns:
            `dense_map`, `dense_mrr@k`, `dense_ndcg@k`, the same of `sparse_`, and `map`, `mrr@k`, `ndcg@k` of both.
        """
        if output_path is not None and self.write_predictions:
            pairs = zip(self.dense_samples, self.fused(), strict=True)
            lines = [
                {
                    "query_id": sample["query_id"],
                    "query": sample["query"],
                    "positive": _listed(sample["positive"]),
                    "documents": documents,
                }
                for sample, documents in pairs
            ]
            io.write_jsonl(Path(output_path) / self.predictions_file, lines)
        return self.record(None, self.measure(None), output_path, epoch, steps)

    def fused(self) -> list[list[Any]]:
        """Rank the documents of every query, best first, equal scores in the order of the dense ranking."""
        rankings = []
        for dense, sparse in zip(self.dense_samples, self.sparse_samples, strict=True):
            scores: dict[Any, float] = {}
            for documents in (dense["documents"], sparse["documents"]):
                # A document that a ranking repeats has its last rank there.
                for document, rank in {document: rank for rank, document in enumerate(documents, start=1)}.items():
                    scores[document] = scores.get(document, 0.0) + 1 / (self.rrf_k + rank)
            rankings.append(sorted(scores, key=lambda document: -scores[document]))  # noqa: B023 - used at once
        return rankings

    def measure(self, model: Any) -> dict[str, float]:
        """Measure the three rankings; no model is needed."""
        del model
        positives = [_listed(sample["positive"]) for sample in self.dense_samples]
        rankings = {
            "dense_": [sample["documents"] for sample in self.dense_samples],
            "sparse_": [sample["documents"] for sample in self.sparse_samples],
            "": self.fused(),
        }
        return {
            f"{prefix}{name}": value
            for prefix, ranked in rankings.items()
            for name, value in self._metrics(ranked, positives).items()
        }

    def _metrics(self, rankings: Sequence[Sequence[Any]], positives: Sequence[Sequence[Any]]) -> dict[str, float]:
        marks = []
        for documents, relevant in zip(rankings, positives, strict=True):
            found = [document in relevant for document in documents]
            missed = len(relevant) - sum(found)
            marks.append(found + [True] * missed if any(found) else [False])
        lengths = torch.tensor([len(one) for one in marks])
        scores = torch.cat([torch.arange(len(one), 0, -1) for one in marks]).double()
        metrics = ranking_metrics(scores, torch.tensor([mark for one in marks for mark in one]), lengths, self.at_k)
        return {name: float(values.mean()) for name, values in metrics.items()}

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Name columns such as `Dense_MAP` and `Fusion_NDCG@10`."""
        kinds = ("map", f"mrr@{self.at_k}", f"ndcg@{self.at_k}")
        return {
            f"{called}_{kind.upper()}": metrics[f"{prefix}{kind}"]
            for prefix, called in _NAMES.items()
            for kind in kinds
        }

    def get_config_dict(self) -> dict[str, Any]:
        """Give the cut-off, the constant, and whether rankings are written."""
        return {"at_k": self.at_k, "rrf_k": self.rrf_k, "write_predictions": self.write_predictions}


def _listed(documents: Any) -> list[Any]:
    return [documents] if isinstance(documents, str) else list(documents)
