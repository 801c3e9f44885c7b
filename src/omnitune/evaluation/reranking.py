"""Order of a query's own candidates by their similarity."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from omnitune.errors import InputError
from omnitune.evaluation.base import BaseEvaluator
from omnitune.ops.metrics import ranking_metrics
from omnitune.ops.similarity import cos_sim

logger = logging.getLogger(__name__)


class RerankingEvaluator(BaseEvaluator):
    """MAP, MRR and NDCG of ordering each query's relevant and irrelevant documents by similarity.

    Args:
        samples: Each with a `query`, and `positive` and `negative`: a document, or a list of them. Samples without one
            of either are left out.
        at_k: Cut-off of MRR and NDCG.
        name, write_csv, batch_size, show_progress_bar, truncate_dim: As in `EmbeddingEvaluator`.
        similarity_fct: `(n, dim), (m, dim) -> (n, m)`, higher is closer.
        use_batched_encoding: Encode all queries, then all documents; False encodes sample by sample, so that no more
            embeddings than one sample's are held.
        mrr_at_k: Former name of `at_k`.

    Raises:
        InputError: No sample has both a positive and a negative.

    Example:
        >>> sample = {"query": "How hot is the oven?", "positive": [pages[1]], "negative": [pages[0]]}
        >>> RerankingEvaluator([sample])(model)["ndcg@10"]
        1.0
    """

    def __init__(
        self,
        samples: list[dict[str, Any]],
        at_k: int = 10,
        name: str = "",
        write_csv: bool = True,
        similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim,
        batch_size: int = 64,
        show_progress_bar: bool = False,
        use_batched_encoding: bool = True,
        truncate_dim: int | None = None,
        mrr_at_k: int | None = None,
    ) -> None:
        super().__init__()
        if mrr_at_k is not None:
            logger.warning("mrr_at_k is called at_k now")
            at_k = mrr_at_k
        given = list(samples.values()) if isinstance(samples, Mapping) else samples
        for place, sample in enumerate(given):
            if missing := [key for key in ("query", "positive", "negative") if key not in sample]:
                raise InputError(f"samples[{place}]: expected the keys query, positive and negative, got no {missing}")
            if sample["query"] is None:
                raise InputError(f"samples[{place}]: expected a query, got None")
        listed = [{**s, "positive": _listed(s["positive"]), "negative": _listed(s["negative"])} for s in given]
        self.samples = [sample for sample in listed if sample["positive"] and sample["negative"]]
        if not self.samples:
            raise InputError(
                f"samples: expected at least one with a positive and a negative document, got none in {len(listed)}"
            )
        self.at_k = at_k
        self.name = name
        self.write_csv = write_csv
        self.similarity_fct = similarity_fct
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.use_batched_encoding = use_batched_encoding
        self.truncate_dim = truncate_dim
        self.csv_file = "RerankingEvaluator" + (f"_{name}" if name else "") + f"_results_@{at_k}.csv"
        self.primary_metric = f"ndcg@{at_k}"

    def measure(self, model: Any) -> dict[str, float]:
        """`map`, `mrr@k` and `ndcg@k`, means over queries."""
        step = len(self.samples) if self.use_batched_encoding else 1
        parts = [self.scores(model, self.samples[at : at + step]) for at in range(0, len(self.samples), step)]
        relevant = [[True] * len(s["positive"]) + [False] * len(s["negative"]) for s in self.samples]
        metrics = ranking_metrics(
            torch.cat(parts),
            torch.tensor([mark for marks in relevant for mark in marks]),
            torch.tensor([len(marks) for marks in relevant]),
            self.at_k,
        )
        return {name: float(values.mean()) for name, values in metrics.items()}

    def scores(self, model: Any, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """Score of every candidate, positives first, sample after sample `(candidates,)`, on the CPU."""
        show = self.show_progress_bar and self.use_batched_encoding
        queries = self.embed_inputs(model, [s["query"] for s in samples], "query", show)
        documents = [document for s in samples for document in (*s["positive"], *s["negative"])]
        vectors = self.embed_inputs(model, documents, "document", show)
        sizes = [len(s["positive"]) + len(s["negative"]) for s in samples]
        own = zip(queries.split(1), vectors.split(sizes), strict=True)
        return torch.cat([self.similarity_fct(query, candidates).reshape(-1) for query, candidates in own]).cpu()

    def embed_inputs(
        self,
        model: Any,
        sentences: Sequence[Any],
        encode_fn_name: str | None = None,
        show_progress_bar: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embeddings `(items, dim)`; `encode_fn_name` is `"query"`, `"document"`, or None for neither."""
        encode = model.encode if encode_fn_name is None else getattr(model, f"encode_{encode_fn_name}")
        return encode(
            sentences,
            batch_size=self.batch_size,
            show_progress_bar=show_progress_bar,
            convert_to_tensor=True,
            truncate_dim=self.truncate_dim,
            **kwargs,
        )

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The columns `MAP`, `MRR@k` and `NDCG@k`."""
        return {name.upper(): value for name, value in metrics.items()}

    def get_config_dict(self) -> dict[str, Any]:
        """The cut-off, and truncation where set."""
        config = {"at_k": self.at_k}
        return config if self.truncate_dim is None else {**config, "truncate_dim": self.truncate_dim}


def _listed(documents: Any) -> list[Any]:
    """Documents as a list, also a single one."""
    return list(documents) if isinstance(documents, list | tuple) else [documents]
