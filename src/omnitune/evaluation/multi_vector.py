"""Evaluators of late-interaction encoders: those of dense ones, with token vectors and MaxSim in their place."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.evaluation.base import BaseEvaluator
from omnitune.evaluation.information_retrieval import InformationRetrievalEvaluator
from omnitune.evaluation.nano_beir import NanoBEIREvaluator
from omnitune.evaluation.reranking import RerankingEvaluator
from omnitune.evaluation.triplet import TripletEvaluator
from omnitune.ops.metrics import spearman
from omnitune.ops.objectives import kl_divergence, temperatures
from omnitune.ops.token_similarity import XTRScores, xtr_scores


class _TokenVectors:
    """Encodes queries and documents as lists of token vectors, for evaluators that encode in `embed_inputs`."""

    batch_size: int
    show_progress_bar: bool

    def embed_inputs(
        self,
        model: Any,
        sentences: Sequence[Any],
        encode_fn_name: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Token vectors `(tokens, dim)` of every item; `encode_fn_name` is "query", "document" or None."""
        encode = model.encode if encode_fn_name is None else getattr(model, f"encode_{encode_fn_name}")
        names = ("prompt_name", "prompt") if len(args) > 1 else ("show_progress_bar",)
        options = {"show_progress_bar": self.show_progress_bar, **dict(zip(names, args, strict=False)), **kwargs}
        options.pop("truncate_dim", None)
        found: list[Tensor] = encode(sentences, batch_size=self.batch_size, **options)
        return found


def _check_truncation(truncate_dim: Any) -> None:
    if truncate_dim is not None:
        raise InputError(
            f"truncate_dim: expected None for a late-interaction encoder, whose token vectors are compared whole, got "
            f"{truncate_dim}"
        )


class MultiVectorInformationRetrievalEvaluator(_TokenVectors, InformationRetrievalEvaluator):
    """`InformationRetrievalEvaluator` over token vectors; metrics are named after the model's similarity.

    Args:
        queries: Text or other input by identifier.
        corpus: Document by identifier.
        relevant_docs: Identifiers of the relevant documents by that of their query.
        corpus_chunk_size: Documents encoded and held at a time.
        chunk_elements: Accepted for compatibility: scores are made in blocks of a constant size.
        score_functions: Score functions by name; None takes the model's similarity.
        **kwargs: As for `InformationRetrievalEvaluator`.

    Raises:
        InputError: `truncate_dim` is given, or a score function is XTR's, whose scores depend on what is searched.

    Example:
        >>> queries, corpus = {"q": "How hot is the oven?"}, {"page-1": pages[0], "page-2": pages[1]}
        >>> evaluator = MultiVectorInformationRetrievalEvaluator(queries, corpus, relevant_docs={"q": {"page-2"}})
        >>> evaluator(late)["maxsim_ndcg@10"]
        1.0
    """

    def __init__(
        self,
        queries: dict[str, Any],
        corpus: dict[str, Any],
        relevant_docs: dict[str, set[str]],
        *,
        corpus_chunk_size: int = 5000,
        chunk_elements: int | None = None,
        score_functions: dict[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_truncation(kwargs.get("truncate_dim"))
        if score_functions is not None and chunk_elements is not None:
            raise InputError("chunk_elements: expected None with score_functions, which it would not reach")
        for name, function in (score_functions or {}).items():
            target = function.func if isinstance(function, partial) else function
            if target is xtr_scores or isinstance(target, XTRScores):
                raise InputError(
                    f"score_functions: expected functions of a query and a document alone, got XTR for {name!r}, whose "
                    "scores depend on the chunk of the corpus; evaluate with maxsim"
                )
        self.chunk_elements = chunk_elements
        options: dict[str, Any] = {"corpus_chunk_size": corpus_chunk_size, "score_functions": score_functions}
        super().__init__(queries, corpus, relevant_docs, **options, **kwargs)


class MultiVectorNanoBEIREvaluator(NanoBEIREvaluator):
    """`NanoBEIREvaluator` over token vectors.

    Args:
        *args: As for `NanoBEIREvaluator`.
        corpus_chunk_size: Documents encoded and held at a time.
        chunk_elements: Accepted for compatibility.
        **kwargs: As for `NanoBEIREvaluator`.

    Raises:
        InputError: `truncate_dim` is given.

    Example:
        >>> evaluator = MultiVectorNanoBEIREvaluator(["msmarco", "nq"])  # downloads  # doctest: +SKIP
        >>> evaluator(late)["NanoBEIR_mean_maxsim_ndcg@10"]  # doctest: +SKIP
        0.6
    """

    information_retrieval_class: ClassVar[type[InformationRetrievalEvaluator]] = (
        MultiVectorInformationRetrievalEvaluator
    )

    def __init__(
        self, *args: Any, corpus_chunk_size: int = 5000, chunk_elements: int | None = None, **kwargs: Any
    ) -> None:
        _check_truncation(kwargs.get("truncate_dim"))
        del chunk_elements
        super().__init__(*args, **kwargs)
        for evaluator in self.evaluators:
            evaluator.corpus_chunk_size = corpus_chunk_size


class MultiVectorTripletEvaluator(_TokenVectors, TripletEvaluator):
    """`TripletEvaluator` over token vectors, by the model's similarity, or by those in `similarity_fn_names`.

    Args:
        *args: As for `TripletEvaluator`.
        **kwargs: As for `TripletEvaluator`.

    Raises:
        InputError: `truncate_dim` is given.

    Example:
        >>> evaluator = MultiVectorTripletEvaluator(["How hot is the oven?"], [pages[1]], [pages[0]])
        >>> evaluator(late)["maxsim_accuracy"]
        1.0
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _check_truncation(kwargs.get("truncate_dim"))
        super().__init__(*args, **kwargs)


class MultiVectorRerankingEvaluator(_TokenVectors, RerankingEvaluator):
    """`RerankingEvaluator` over token vectors.

    Args:
        samples: As for `RerankingEvaluator`, as are all that are not named below.
        similarity_fct: Scores `(queries, documents)` of two lists of token vectors; None takes the model's similarity.

    Raises:
        InputError: No sample has both a positive and a negative.

    Example:
        >>> sample = {"query": "How hot is the oven?", "positive": [pages[1]], "negative": [pages[0]]}
        >>> MultiVectorRerankingEvaluator([sample])(late)["ndcg@10"]
        1.0
    """

    def __init__(
        self,
        samples: list[dict[str, Any]],
        *,
        at_k: int = 10,
        name: str = "",
        write_csv: bool = True,
        similarity_fct: Callable[..., Tensor] | None = None,
        batch_size: int = 16,
        show_progress_bar: bool = False,
        use_batched_encoding: bool = True,
    ) -> None:
        super().__init__(
            samples,
            at_k=at_k,
            name=name,
            write_csv=write_csv,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            use_batched_encoding=use_batched_encoding,
        )
        self._similarity = similarity_fct

    def scores(self, model: Any, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """Score of every candidate, positives first, sample after sample `(candidates,)`, on the CPU."""
        show = self.show_progress_bar and self.use_batched_encoding
        queries = self.embed_inputs(model, [s["query"] for s in samples], "query", show)
        documents = [document for s in samples for document in (*s["positive"], *s["negative"])]
        vectors = self.embed_inputs(model, documents, "document", show)
        similarity, found, start = self._similarity or model.similarity, [], 0
        for query, sample in zip(queries, samples, strict=True):
            stop = start + len(sample["positive"]) + len(sample["negative"])
            found.append(similarity([query], vectors[start:stop]).reshape(-1))
            start = stop
        return torch.cat(found).cpu()


class MultiVectorDistillationEvaluator(BaseEvaluator):
    """Compares a student's scores with a teacher's: divergence (lower is better) and rank correlation.

    Args:
        queries: Queries.
        documents: One document a query; or a list of as many candidates each.
        scores: The teacher's `(queries,)`, or `(queries, candidates)`.
        temperature: Divides scores before the softmax.
        student_temperature: The same for the student alone; by default `temperature`.
        teacher_temperature: The same for the teacher alone; by default `temperature`.
        similarity_fct: Scores `(rows,)` of two lists of token vectors, row by row; None takes the model's similarity.
        name, batch_size, show_progress_bar, write_csv: As in `EmbeddingEvaluator`.

    Raises:
        ShapeError: Queries, documents and scores do not go together.
        InputError: A temperature is not positive and finite.

    Example:
        >>> queries = ["How hot is the oven?", "How often is it greased?"]
        >>> evaluator = MultiVectorDistillationEvaluator(queries, [pages, pages], scores=[[2.0, 9.0], [8.0, 1.0]])
        >>> round(evaluator(late)["spearman"], 2)
        1.0
    """

    def __init__(
        self,
        queries: Sequence[Any],
        documents: Sequence[Any],
        scores: Any,
        *,
        temperature: float = 1.0,
        student_temperature: float | None = None,
        teacher_temperature: float | None = None,
        similarity_fct: Callable[..., Tensor] | None = None,
        name: str = "",
        batch_size: int = 16,
        show_progress_bar: bool = False,
        write_csv: bool = True,
    ) -> None:
        super().__init__()
        self.scores = torch.as_tensor(scores, dtype=torch.float32).detach().cpu()
        first = documents[0] if len(documents) else None
        talk = isinstance(first, list | tuple) and bool(first) and isinstance(first[0], Mapping) and "role" in first[0]
        self.nested_documents = isinstance(first, list | tuple) and not talk
        self.queries, self.documents = list(queries), list(documents)
        ways = [len(row) for row in documents] if self.nested_documents else []
        expected = (len(queries), *ways[:1])
        if len(documents) != len(queries) or tuple(self.scores.shape) != expected or len(set(ways)) > 1:
            raise ShapeError(
                f"queries, documents, scores: expected equally many, and of every query as many candidates and scores, "
                f"got {len(queries)}, {len(documents)} (candidates {sorted(set(ways))}) and {tuple(self.scores.shape)}"
            )
        self.temperature = temperature
        self.student_temperature, self.teacher_temperature = temperatures(
            temperature, student_temperature, teacher_temperature
        )
        self.similarity_fct = similarity_fct
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.csv_file = "distillation_evaluation" + (f"_{name}" if name else "") + "_results.csv"
        self.primary_metric = "spearman"

    def measure(self, model: Any) -> dict[str, float]:
        """`kl_divergence`, a mean over queries, or over all pairs as one distribution; and `spearman`."""
        options = {"batch_size": self.batch_size, "show_progress_bar": self.show_progress_bar}
        similarity = self.similarity_fct or model.similarity_pairwise
        queries = model.encode_query(self.queries, **options)
        if self.nested_documents:
            ways = len(self.documents[0])
            flat = model.encode_document([document for row in self.documents for document in row], **options)
            each = [similarity(queries, flat[way::ways]).cpu() for way in range(ways)]
            student = torch.stack(each, dim=1).float()
        else:
            student = similarity(queries, model.encode_document(self.documents, **options)).cpu().float()[None]
        teacher = self.scores if self.nested_documents else self.scores[None]
        divergence = kl_divergence(student / self.student_temperature, teacher / self.teacher_temperature)
        correlations = [c for c in map(spearman, teacher, student) if not math.isnan(c)]
        return {
            "kl_divergence": float(divergence) * self.student_temperature**2,
            "spearman": sum(correlations) / len(correlations) if correlations else 0.0,
        }

    def choose_primary(self, metrics: Mapping[str, float]) -> str:
        """The rank correlation."""
        del metrics
        return "spearman"

    def get_config_dict(self) -> dict[str, Any]:
        """Temperatures that are not 1."""
        own = {"student_temperature": self.student_temperature, "teacher_temperature": self.teacher_temperature}
        config = {"temperature": self.temperature} if self.temperature != 1.0 else {}
        return {**config, **{name: value for name, value in own.items() if value != self.temperature}}
