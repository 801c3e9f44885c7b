"""Evaluators of sparse encoders: those of dense ones over csr rows, which also say how many dimensions are active."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnitune.errors import InputError
from omnitune.evaluation.binary_classification import BinaryClassificationEvaluator
from omnitune.evaluation.embedding_similarity import EmbeddingSimilarityEvaluator
from omnitune.evaluation.information_retrieval import InformationRetrievalEvaluator, Ranking
from omnitune.evaluation.mse import MSEEvaluator
from omnitune.evaluation.nano_beir import NanoBEIREvaluator
from omnitune.evaluation.ranking import Hits, Rows, Score
from omnitune.evaluation.reranking import RerankingEvaluator
from omnitune.evaluation.translation import TranslationEvaluator
from omnitune.evaluation.triplet import TripletEvaluator
from omnitune.ops.metrics import expect_numbers
from omnitune.types import Embeddings

_RETRIEVAL = (
    "query_active_dims",
    "query_sparsity_ratio",
    "corpus_active_dims",
    "corpus_sparsity_ratio",
    "avg_flops",
)


@dataclass(frozen=True, slots=True)
class Presence:
    """Counts of the rows that use each dimension.

    Attributes:
        rows: Number of rows.
        counts: Rows that use each dimension `(dim,)`, float64.
    """

    rows: int
    counts: Tensor

    @classmethod
    def of(cls, rows: Embeddings) -> "Presence":
        """Count csr rows."""
        assert rows.indices is not None
        used = rows.indices[rows.values != 0].cpu()
        return cls(len(rows), torch.bincount(used, minlength=rows.dim or 0).double())

    @classmethod
    def joined(cls, parts: Sequence["Presence"]) -> "Presence":
        """Count all rows together."""
        return cls(sum(part.rows for part in parts), torch.stack([part.counts for part in parts]).sum(dim=0))

    def stats(self) -> dict[str, float]:
        """Give the mean active dimensions of a row, and the share of dimensions that are not."""
        active = float(self.counts.sum()) / max(1, self.rows)
        return {"active_dims": active, "sparsity_ratio": 1 - active / max(1, len(self.counts))}


Seen = list[tuple[str, Presence]]
"""Rows that an evaluator encoded, call by call, with what they were."""


class _SparseRows:
    """Encodes to csr rows, and adds to the metrics how sparse they were.

    Args:
        *args: As for the dense evaluator.
        max_active_dims: Largest entries to keep of every row; None keeps the model's own setting.
        **kwargs: As for the dense evaluator.

    Raises:
        InputError: `truncate_dim` or `precision` is given, which sparse rows do not have.
    """

    batch_size: int
    show_progress_bar: Any
    truncate_dim: int | None

    def __init__(self, *args: Any, max_active_dims: int | None = None, **kwargs: Any) -> None:
        for name in ("truncate_dim", "precision"):
            if kwargs.get(name) is not None:
                raise InputError(
                    f"{name}: expected None for a sparse encoder, got {kwargs[name]!r}; give max_active_dims"
                )
        self.max_active_dims = max_active_dims
        self.seen: Seen = []
        super().__init__(*args, **kwargs)
        if self.truncate_dim is not None:  # given by its place, which is that of truncate_dim in the dense evaluator
            self.max_active_dims, self.truncate_dim = self.truncate_dim, None

    def encoded(
        self, model: Any, items: Sequence[Any], called: str, role: str | None = None, **options: Any
    ) -> Embeddings:
        """Encode items to csr rows, and count them under a name."""
        encode = model.encode if role is None else getattr(model, f"encode_{role}")
        made = encode(
            items,
            **{
                "batch_size": self.batch_size,
                "show_progress_bar": self.show_progress_bar,
                "convert_to_sparse_tensor": True,
                "save_to_cpu": True,
                "max_active_dims": self.max_active_dims,
                **options,
            },
        )
        rows = Embeddings.csr(made)
        expect_numbers(rows.values, "embeddings")
        self.seen.append((called, Presence.of(rows)))
        return rows

    def embed_inputs(self, model: Any, sentences: Sequence[Any], **kwargs: Any) -> Any:
        """Encode items to csr rows."""
        return self.encoded(model, sentences, "", **kwargs)

    def measure(self, model: Any) -> dict[str, float]:
        """Measure what the dense evaluator does, `active_dims` and `sparsity_ratio`."""
        self.seen = []
        metrics: dict[str, float] = super().measure(model)  # type: ignore[misc]  # of the evaluator beside it
        return {**metrics, **mean_sparsity(self.seen)}

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """List the columns of the dense evaluator, then sparsity."""
        sparsity = {
            name: value
            for name, value in metrics.items()
            if (name == "avg_flops" or name.endswith(("active_dims", "sparsity_ratio")))
        }
        own = {name: value for name, value in metrics.items() if name not in sparsity}
        row: dict[str, float] = super().csv_row(own)  # type: ignore[misc]
        return {**row, **sparsity}

    def get_config_dict(self) -> dict[str, Any]:
        """Give the settings of the dense evaluator, and `max_active_dims` where set."""
        config: dict[str, Any] = super().get_config_dict()  # type: ignore[misc]
        return config if self.max_active_dims is None else {**config, "max_active_dims": self.max_active_dims}


def mean_sparsity(seen: Seen) -> dict[str, float]:
    """Average statistics over calls, by the names of what was encoded."""
    found: dict[str, list[float]] = {}
    for called, presence in seen:
        for name, value in presence.stats().items():
            found.setdefault(f"{called}_{name}" if called else name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def retrieval_sparsity(seen: Seen) -> dict[str, float]:
    """Compute statistics of queries and corpus over all rows, and how many products comparing two takes on average."""
    sides = {
        side: Presence.joined([presence for called, presence in seen if called == side]) for side in ("query", "corpus")
    }
    found = {f"{side}_{name}": value for side, one in sides.items() for name, value in one.stats().items()}
    query, corpus = (one.counts / one.rows for one in sides.values())
    return {**found, "avg_flops": float(query @ corpus)}


class SparseInformationRetrievalEvaluator(_SparseRows, InformationRetrievalEvaluator):
    """`InformationRetrievalEvaluator` over sparse rows, with the sparsity of both sides and `avg_flops`.

    Takes the arguments of `InformationRetrievalEvaluator` but `truncate_dim`, and `max_active_dims`: largest
    entries to keep of every row; None keeps the model's own setting.

    Raises:
        InputError: `truncate_dim` or `precision` is given.

    Example:
        >>> queries, corpus = {"q": "How hot is the oven?"}, {"page-1": pages[0], "page-2": pages[1]}
        >>> evaluator = SparseInformationRetrievalEvaluator(queries, corpus, {"q": ["page-2"]}, max_active_dims=16)
        >>> results = evaluator(sparse)
        >>> results["corpus_active_dims"], "dot_ndcg@10" in results
        (16.0, True)
    """

    def embed_inputs(
        self,
        model: Any,
        sentences: Sequence[Any],
        encode_fn_name: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode queries or documents to csr rows."""
        kwargs.pop("truncate_dim", None)
        called = "corpus" if encode_fn_name == "document" else "query"
        return self.encoded(model, sentences, called, encode_fn_name, prompt_name=prompt_name, prompt=prompt, **kwargs)

    def rank(
        self, model: Any, corpus_model: Any | None = None, corpus_embeddings: Rows | None = None
    ) -> dict[str, Ranking]:
        """See `InformationRetrievalEvaluator.rank`; `corpus_embeddings` are sparse or dense `(documents, dim)`."""
        self.seen = []
        if isinstance(corpus_embeddings, Tensor):
            corpus_embeddings = Embeddings.csr(corpus_embeddings.cpu())
        if isinstance(corpus_embeddings, Embeddings):
            self.seen.append(("corpus", Presence.of(corpus_embeddings)))
        return super().rank(model, corpus_model, corpus_embeddings)

    def _retrieve(
        self, model: Any, corpus: Iterable[Rows], scores: Mapping[str, Score], truncate_dim: int | None
    ) -> dict[str, Hits]:
        return super()._retrieve(
            model, corpus, {name: _on_tensors(score) for name, score in scores.items()}, truncate_dim
        )

    def metrics_of(self, rankings: Mapping[str, Ranking]) -> dict[str, float]:
        """Give the metrics under each similarity, then sparsity."""
        return {**super().metrics_of(rankings), **retrieval_sparsity(self.seen)}

    def measure(self, model: Any) -> dict[str, float]:
        """`{"{similarity}_ndcg@10": ..., ..., "query_active_dims": ..., ..., "avg_flops": ...}`."""
        return InformationRetrievalEvaluator.measure(self, model)

    def metric_names(self, model: Any) -> list[str]:
        """List those of the dense evaluator, and sparsity."""
        return [*super().metric_names(model), *_RETRIEVAL]


def _on_tensors(score: Score) -> Score:
    """Make a similarity of sparse tensors one of csr rows."""

    def compare(queries: Embeddings, documents: Embeddings) -> Tensor:
        return score(queries.coo(), documents.coo())

    return compare


class SparseNanoBEIREvaluator(NanoBEIREvaluator):
    """`NanoBEIREvaluator` over sparse rows; sparsity is that of all datasets' rows together.

    Takes the arguments of `NanoBEIREvaluator` but `truncate_dim`, and `max_active_dims`: largest entries to
    keep of every row, which then is part of every name; None keeps the model's own setting.

    Raises:
        InputError: `truncate_dim` is given.

    Example:
        >>> evaluator = SparseNanoBEIREvaluator(["msmarco", "nq"])  # downloads  # doctest: +SKIP
        >>> evaluator(sparse)["NanoBEIR_mean_dot_ndcg@10"]  # doctest: +SKIP
        0.6
    """

    information_retrieval_class: ClassVar[type[InformationRetrievalEvaluator]] = SparseInformationRetrievalEvaluator
    limited_by = "max_active_dims"

    def __init__(self, *args: Any, max_active_dims: int | None = None, **kwargs: Any) -> None:
        if kwargs.get("truncate_dim") is not None:
            raise InputError(
                f"truncate_dim: expected None for a sparse encoder, got {kwargs['truncate_dim']}; give max_active_dims"
            )
        super().__init__(*args, **{**kwargs, "truncate_dim": max_active_dims})
        self.max_active_dims, self.truncate_dim = max_active_dims, None

    def aggregated(self, values: Mapping[str, list[float]]) -> dict[str, float]:
        """Aggregate metrics; sparsity is that of all rows."""
        seen = [one for evaluator in self.evaluators for one in evaluator.seen]  # type: ignore[attr-defined]
        return {**super().aggregated(values), **retrieval_sparsity(seen)}

    def get_config_dict(self) -> dict[str, Any]:
        """Give the settings of the dense evaluator, and `max_active_dims` where set."""
        config = super().get_config_dict()
        return config if self.max_active_dims is None else {**config, "max_active_dims": self.max_active_dims}


class SparseRerankingEvaluator(_SparseRows, RerankingEvaluator):
    """`RerankingEvaluator` over sparse rows, with the sparsity of both sides. Scores are cosines unless told otherwise.

    Takes the arguments of `RerankingEvaluator` but `truncate_dim`, and `max_active_dims`: largest entries to
    keep of every row; None keeps the model's own setting.

    Raises:
        InputError: `truncate_dim` or `precision` is given.

    Example:
        >>> sample = {"query": "How hot is the oven?", "positive": [pages[1]], "negative": [pages[0]]}
        >>> SparseRerankingEvaluator([sample], max_active_dims=16)(sparse)
        {'map': ..., 'mrr@10': ..., 'ndcg@10': ..., 'query_active_dims': 16.0, ...}
    """

    def embed_inputs(
        self,
        model: Any,
        sentences: Sequence[Any],
        encode_fn_name: str | None = None,
        show_progress_bar: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Encode queries or documents to csr rows."""
        called = "corpus" if encode_fn_name == "document" else "query"
        return self.encoded(model, sentences, called, encode_fn_name, show_progress_bar=show_progress_bar, **kwargs)

    def scores(self, model: Any, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """Score every candidate, positives first, sample after sample `(candidates,)`, on the CPU."""
        show = self.show_progress_bar and self.use_batched_encoding
        queries = self.embed_inputs(model, [s["query"] for s in samples], "query", show)
        documents = [document for s in samples for document in (*s["positive"], *s["negative"])]
        rows, found, start = self.embed_inputs(model, documents, "document", show), [], 0
        for number, sample in enumerate(samples):
            stop = start + len(sample["positive"]) + len(sample["negative"])
            pair = queries[number : number + 1].coo(), rows[start:stop].coo()
            found.append(self.similarity_fct(*pair).reshape(-1))
            start = stop
        return torch.cat(found).cpu()


class SparseTripletEvaluator(_SparseRows, TripletEvaluator):
    """`TripletEvaluator` over sparse rows, with the sparsity of anchors, positives and negatives.

    Takes the arguments of `TripletEvaluator` but `truncate_dim`, and `max_active_dims`: largest entries to keep
    of every row; None keeps the model's own setting.

    Raises:
        InputError: `truncate_dim` or `precision` is given.

    Example:
        >>> evaluator = SparseTripletEvaluator(["How hot is the oven?"], [pages[1]], [pages[0]], max_active_dims=16)
        >>> evaluator(sparse)
        {'dot_accuracy': ..., 'anchor_active_dims': 16.0, ...}
    """

    def embed_inputs(
        self, model: Any, sentences: Sequence[Any], encode_fn_name: str | None = None, **kwargs: Any
    ) -> Any:
        """Encode anchors, positives and negatives, in this order, to csr rows."""
        called = ("anchor", "positive", "negative")[len(self.seen) % 3]
        return self.encoded(model, sentences, called, encode_fn_name, **kwargs)


class SparseEmbeddingSimilarityEvaluator(_SparseRows, EmbeddingSimilarityEvaluator):
    """`EmbeddingSimilarityEvaluator` over sparse rows, with their sparsity.

    Takes the arguments of `EmbeddingSimilarityEvaluator` but `precision` and `truncate_dim`, and
    `max_active_dims`: largest entries to keep of every row; None keeps the model's own setting.

    Raises:
        InputError: `truncate_dim` or `precision` is given.

    Example:
        >>> first, second = ["grease it", "grease it"], ["add grease", "a red car"]
        >>> SparseEmbeddingSimilarityEvaluator(first, second, scores=[0.9, 0.0], max_active_dims=16)(sparse)
        {'pearson_dot': ..., 'spearman_dot': ..., 'active_dims': 16.0, 'sparsity_ratio': ...}
    """


class SparseBinaryClassificationEvaluator(_SparseRows, BinaryClassificationEvaluator):
    """`BinaryClassificationEvaluator` over sparse rows, with the sparsity of the distinct ones.

    Takes the arguments of `BinaryClassificationEvaluator` but `truncate_dim`, and `max_active_dims`: largest
    entries to keep of every row; None keeps the model's own setting.

    Raises:
        InputError: `truncate_dim` or `precision` is given.

    Example:
        >>> first, second = ["grease it", "grease it"], ["add grease", "a red car"]
        >>> SparseBinaryClassificationEvaluator(first, second, labels=[1, 0], max_active_dims=16)(sparse)
        {'dot_accuracy': ..., 'dot_ap': ..., 'active_dims': 16.0, 'sparsity_ratio': ...}
    """

    def embed_inputs(self, model: Any, sentences: Sequence[Any], **kwargs: Any) -> Any:
        """Encode items to csr rows, each counted once."""
        if not all(isinstance(sentence, str) for sentence in sentences):
            return super().embed_inputs(model, sentences, **kwargs)
        place = {sentence: number for number, sentence in enumerate(dict.fromkeys(sentences))}
        rows = super().embed_inputs(model, list(place), **kwargs)
        return rows[torch.tensor([place[sentence] for sentence in sentences])]


class SparseMSEEvaluator(_SparseRows, MSEEvaluator):
    """`MSEEvaluator` over sparse rows, with the sparsity of the model's; nothing is made dense.

    Takes the arguments of `MSEEvaluator` but `truncate_dim`, and `max_active_dims`: largest entries to keep of
    every row; None keeps the models' own setting.

    Raises:
        InputError: `truncate_dim` or `precision` is given.

    Example:
        >>> evaluator = SparseMSEEvaluator(pages, pages, teacher_model=sparse, max_active_dims=16)
        >>> evaluator(sparse)
        {'negative_mse': ..., 'active_dims': 16.0, 'sparsity_ratio': ...}
    """

    def error(self, teacher: Any, student: Any) -> float:
        """Compute 100 times the mean squared difference of csr rows."""
        difference = (teacher.coo().double() - student.coo().double()).coalesce().values()
        return 100 * float(difference.square().sum()) / max(1, len(teacher) * (teacher.dim or 1))


class SparseTranslationEvaluator(_SparseRows, TranslationEvaluator):
    """`TranslationEvaluator` over sparse rows, with their sparsity.

    Takes the arguments of `TranslationEvaluator` but `truncate_dim`, and `max_active_dims`: largest entries to
    keep of every row; None keeps the model's own setting.

    Raises:
        InputError: `truncate_dim` or `precision` is given.

    Example:
        >>> evaluator = SparseTranslationEvaluator(["hotel", "radio"], ["Hotel", "Radio"], max_active_dims=16)
        >>> evaluator(sparse)
        {'src2trg_accuracy': ..., 'mean_accuracy': ..., 'active_dims': 16.0, 'sparsity_ratio': ...}
    """
