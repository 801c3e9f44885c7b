"""Retrieval: the documents that a model finds for queries, and how good they are."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnitune import io
from omnitune.errors import InputError, ShapeError
from omnitune.evaluation.base import BaseEvaluator, check_inputs, moment, similarity_name
from omnitune.evaluation.ranking import Hits, Relevance, Rows, Score, chunks, retrieve_each, score_ranking
from omnitune.ops.metrics import mark_relevant
from omnitune.ops.similarity import SimilarityFunction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Documents that one system found for every query, and how good they are.

    Attributes:
        query_ids: Of the queries, in the order of all rows below.
        corpus_ids: Of the documents.
        hits: The best documents of every query `(queries, k)`.
        relevant: Which of them are relevant `(queries, k)`, bool.
        per_query: Metric to its value for every query `(queries,)`, float64: `"ndcg@10"`, `"mrr@10"`, ...

    Example:
        >>> from omnitune.evaluation import InformationRetrievalEvaluator
        >>> queries, corpus = {"q": "How hot is the oven?"}, {"page-1": pages[0], "page-2": pages[1]}
        >>> ranking = InformationRetrievalEvaluator(queries, corpus, {"q": ["page-2"]}).rank(model)["cosine"]
        >>> ranking.found(0, k=1)
        [('page-2', 0.7...)]
    """

    query_ids: Sequence[Any]
    corpus_ids: Sequence[Any]
    hits: Hits
    relevant: Tensor
    per_query: Mapping[str, Tensor]

    def means(self) -> dict[str, float]:
        """Every metric, the mean over queries."""
        return {name: float(values.mean()) for name, values in self.per_query.items()}

    def found(self, query: int, k: int | None = None) -> list[tuple[Any, float]]:
        """Identifier and score of the first `k` documents of query number `query`, best first."""
        pairs = zip(self.hits.rows[query, :k].tolist(), self.hits.scores[query, :k].tolist(), strict=True)
        return [(self.corpus_ids[row], score) for row, score in pairs if row >= 0]


class InformationRetrievalEvaluator(BaseEvaluator):
    """Accuracy, precision, recall, NDCG, MRR and MAP of retrieving documents for queries.

    Every query meets every document; documents are encoded and compared chunk by chunk. Documents with equal scores are
    ordered by their identifiers, so duplicates do not make results depend on chance.

    Args:
        queries: Query identifier to query. Queries without a relevant document are left out.
        corpus: Document identifier to document: a text, an image in any accepted form, ... Looked up a chunk at a
            time, so a mapping that loads them lazily is never held whole.
        relevant_docs: Query identifier to the identifiers of its relevant documents, or to a grade by identifier, of
            which those above 0 count. A document that is not in the corpus cannot be found and counts as missed, with a
            warning.
        corpus_chunk_size: Documents that are encoded and compared at a time.
        mrr_at_k: Cut-offs of the mean reciprocal rank.
        ndcg_at_k: Cut-offs of NDCG.
        accuracy_at_k: Cut-offs of accuracy.
        precision_recall_at_k: Cut-offs of precision and recall.
        map_at_k: Cut-offs of mean average precision.
        show_progress_bar, batch_size, name, write_csv, truncate_dim: As in `EmbeddingEvaluator`.
        score_functions: Name to similarity `(queries, dim), (documents, dim) -> (queries, documents)`; by default that
            of whichever model is measured.
        main_score_function: Which of them the primary metric belongs to; by default the one with the best NDCG.
        query_prompt: Text put before every query.
        query_prompt_name: Name of that text among the model's prompts.
        corpus_prompt: Text put before every document.
        corpus_prompt_name: Name of that text among the model's prompts.
        write_predictions: Whether a call writes what was found for every query as JSON Lines to its output folder.

    Raises:
        InputError: No query has a relevant document, or one in the corpus; relevant documents are given as a text; the
            corpus is empty; or there is no cut-off.

    Source:
        Järvelin and Kekäläinen 2002 for NDCG, with gains 0 and 1 and the discount 1 / log2(rank + 1).

    Example:
        >>> queries, corpus = {"q": "How hot is the oven?"}, {"page-1": pages[0], "page-2": pages[1]}
        >>> evaluator = InformationRetrievalEvaluator(queries, corpus, relevant_docs={"q": ["page-2"]}, name="manuals")
        >>> evaluator(model)["manuals_cosine_ndcg@10"]
        1.0
    """

    def __init__(
        self,
        queries: Mapping[Any, Any],
        corpus: Mapping[Any, Any],
        relevant_docs: Mapping[Any, Iterable[Any]],
        corpus_chunk_size: int = 50000,
        mrr_at_k: list[int] = [10],  # noqa: B006 - ST's defaults; every instance copies them
        ndcg_at_k: list[int] = [10],  # noqa: B006
        accuracy_at_k: list[int] = [1, 3, 5, 10],  # noqa: B006
        precision_recall_at_k: list[int] = [1, 3, 5, 10],  # noqa: B006
        map_at_k: list[int] = [100],  # noqa: B006
        show_progress_bar: bool = False,
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
        score_functions: dict[str, Callable[[Tensor, Tensor], Tensor]] | None = None,
        main_score_function: str | SimilarityFunction | None = None,
        query_prompt: str | None = None,
        query_prompt_name: str | None = None,
        corpus_prompt: str | None = None,
        corpus_prompt_name: str | None = None,
        write_predictions: bool = False,
    ) -> None:
        super().__init__()
        check_inputs(queries=queries, corpus=corpus)
        known = {query: _ids(query, relevant_docs[query]) for query in queries if query in relevant_docs}
        self.relevant_docs = {query: documents for query, documents in known.items() if documents}
        self.queries_ids = list(self.relevant_docs)
        self.queries = [queries[query] for query in self.queries_ids]
        self.corpus_ids = list(corpus)
        self.corpus = corpus
        self.mrr_at_k = list(mrr_at_k)
        self.ndcg_at_k = list(ndcg_at_k)
        self.accuracy_at_k = list(accuracy_at_k)
        self.precision_recall_at_k = list(precision_recall_at_k)
        self.map_at_k = list(map_at_k)
        self.corpus_chunk_size = corpus_chunk_size
        self.show_progress_bar = show_progress_bar
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.score_functions = score_functions
        self.main_score_function = similarity_name(main_score_function)
        self.query_prompt = query_prompt
        self.query_prompt_name = query_prompt_name
        self.corpus_prompt = corpus_prompt
        self.corpus_prompt_name = corpus_prompt_name
        self.write_predictions = write_predictions
        stem = "Information-Retrieval_evaluation" + (f"_{name}" if name else "")
        self.csv_file = f"{stem}_results.csv"
        self.predictions_file = f"{stem}_predictions.jsonl"
        self._check(len(queries))
        rows = {document: row for row, document in enumerate(self.corpus_ids)}
        pairs = [(q, document) for q, query in enumerate(self.queries_ids) for document in self.relevant_docs[query]]
        missing = [document for _, document in pairs if document not in rows]
        if len(missing) == len(pairs):
            raise InputError(
                f"relevant_docs: expected identifiers of the corpus, such as {self.corpus_ids[0]!r}, got none, such as "
                f"{missing[0]!r}; identifiers must be equal, and of the same type"
            )
        if missing:
            logger.warning(
                "%s%d relevant documents are not in the corpus, such as %r; they count as missed",
                f"{self.name}: " if self.name else "",
                len(missing),
                missing[0],
            )
        self._relevance = Relevance.of(
            [
                [rows[document] for document in self.relevant_docs[query] if document in rows]
                for query in self.queries_ids
            ],
            counts=[len(self.relevant_docs[query]) for query in self.queries_ids],
        )
        by_id = sorted(range(len(self.corpus_ids)), key=self.corpus_ids.__getitem__)
        self._order = torch.argsort(torch.tensor(by_id))

    def _check(self, given: int) -> None:
        if not self.queries:
            raise InputError(
                f"relevant_docs: expected relevant documents for at least one of {given} queries, got none; "
                "its keys are query identifiers and must be of the same type as those of queries"
            )
        if not self.corpus_ids:
            raise InputError("corpus: expected at least one document, got none")
        for argument in ("mrr_at_k", "ndcg_at_k", "accuracy_at_k", "precision_recall_at_k", "map_at_k"):
            if not getattr(self, argument) or min(getattr(self, argument)) < 1:
                raise InputError(f"{argument}: expected cut-offs of at least 1, got {getattr(self, argument)}")

    def __call__(
        self,
        model: Any,
        output_path: str | None = None,
        epoch: int = -1,
        steps: int = -1,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Measure the model, record the results, and return them.

        Args:
            model: The model.
            output_path: Folder of the CSV file and the predictions; None writes nothing.
            epoch: Epoch of the training run, -1 outside one.
            steps: Step within it, -1 at its end.
            *args: As `rank` takes after the model.
            **kwargs: As `rank` takes after the model.

        Returns:
            `{"{name}_{similarity}_ndcg@10": ..., ...}`.
        """
        rankings = self.rank(model, *args, **kwargs)
        logger.info(
            "Retrieval with %d queries and %d documents of %s%s:",
            len(self.queries),
            len(self.corpus_ids),
            self.name or "the evaluator",
            moment(epoch, steps, self.truncate_dim),
        )
        for name, ranking in rankings.items():
            logger.info("%s: %s", name, ", ".join(f"{key} {value:.4f}" for key, value in ranking.means().items()))
            if self.write_predictions and output_path is not None:
                file = self.predictions_file.replace(".jsonl", f"_{name}.jsonl")
                io.write_jsonl(Path(output_path) / file, self.predictions(ranking))
        return self.record(model, self.metrics_of(rankings), output_path, epoch, steps)

    def measure(self, model: Any) -> dict[str, float]:
        """`{"{similarity}_ndcg@10": ..., ...}`, without the evaluator's name."""
        return self.metrics_of(self.rank(model))

    def metrics_of(self, rankings: Mapping[str, Ranking]) -> dict[str, float]:
        """The metrics under each similarity, by their names without the evaluator's."""
        return {
            f"{name}_{metric}": value for name, ranking in rankings.items() for metric, value in ranking.means().items()
        }

    def rank(
        self, model: Any, corpus_model: Any | None = None, corpus_embeddings: Rows | None = None
    ) -> dict[str, Ranking]:
        """Rank the corpus for every query, under each similarity.

        Args:
            model: Encodes the queries, and the documents where nothing else is given.
            corpus_model: Encodes the documents.
            corpus_embeddings: The documents' embeddings `(documents, dim)` in corpus order, so that none is encoded.
        """
        scores = self.score_functions or {model.similarity_fn_name: model.similarity}
        encoded = self._corpus(corpus_model or model, corpus_embeddings, self.truncate_dim)
        return {
            name: self.judge(hits) for name, hits in self._retrieve(model, encoded, scores, self.truncate_dim).items()
        }

    def rank_dims(self, model: Any, dims: Sequence[int]) -> dict[int, Ranking]:
        """Rank with embeddings cut to their first dimensions, from encoding everything once.

        Equal to `rank` with `truncate_dim` set to each of `dims` in turn, under the model's similarity.

        Args:
            model: Encodes queries and documents.
            dims: Numbers of dimensions, each at most the embedding's.

        Raises:
            InputError: The embeddings are shorter than one of `dims`.
        """
        scores = {str(dim): _truncated(model.similarity, dim) for dim in dims}
        encoded = self._corpus(model, None, max(dims))
        hits = self._retrieve(model, encoded, scores, max(dims))
        return {dim: self.judge(hits[str(dim)]) for dim in dims}

    def judge(self, hits: Hits) -> Ranking:
        """The metrics of any system's hits, for example a lexical baseline's.

        Args:
            hits: Rows count documents in the order of `corpus_ids`, queries are in the order of `queries_ids`.

        Raises:
            ShapeError: `hits` does not hold one row for every query.
        """
        if len(hits.rows) != len(self.queries_ids):
            raise ShapeError(
                f"hits: expected one row for each of {len(self.queries_ids)} queries that have a relevant document, "
                f"got {len(hits.rows)}; search for evaluator.queries"
            )
        per_query = score_ranking(
            hits,
            self._relevance,
            accuracy=self.accuracy_at_k,
            precision_recall=self.precision_recall_at_k,
            ndcg=self.ndcg_at_k,
            mrr=self.mrr_at_k,
            map=self.map_at_k,
        )
        relevant = mark_relevant(hits.rows, self._relevance.queries, self._relevance.documents)
        return Ranking(
            query_ids=self.queries_ids, corpus_ids=self.corpus_ids, hits=hits, relevant=relevant, per_query=per_query
        )

    def _retrieve(
        self, model: Any, corpus: Iterable[Rows], scores: Mapping[str, Score], truncate_dim: int | None
    ) -> dict[str, Hits]:
        queries = self.embed_inputs(
            model, self.queries, "query", self.query_prompt_name, self.query_prompt, truncate_dim=truncate_dim
        )
        return retrieve_each(queries, corpus, scores, self.top_k, order=self._order)

    @property
    def top_k(self) -> int:
        """Documents kept for each query: the largest cut-off."""
        return max(self.mrr_at_k + self.ndcg_at_k + self.accuracy_at_k + self.precision_recall_at_k + self.map_at_k)

    def _corpus(self, model: Any, embeddings: Rows | None, truncate_dim: int | None) -> Iterable[Rows]:
        size, show = self.corpus_chunk_size, self.show_progress_bar
        if embeddings is not None:
            yield from chunks(embeddings, size, show=show)
            return
        for ids in chunks(self.corpus_ids, size, show=show):
            items = [self.corpus[document] for document in ids]
            yield self.embed_inputs(
                model, items, "document", self.corpus_prompt_name, self.corpus_prompt, truncate_dim=truncate_dim
            )

    def embed_inputs(
        self,
        model: Any,
        sentences: Sequence[Any],
        encode_fn_name: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embeddings `(items, dim)` of queries or documents; a family with other embeddings overrides this.

        Args:
            model: The model.
            sentences: The items.
            encode_fn_name: `"query"`, `"document"`, or None for neither.
            prompt_name: Name of the text put before every item.
            prompt: Text put before every item.
            **kwargs: Further options of the model's verb.
        """
        encode = model.encode if encode_fn_name is None else getattr(model, f"encode_{encode_fn_name}")
        options = {"truncate_dim": self.truncate_dim, **kwargs}
        return encode(
            sentences,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_tensor=True,
            **options,
        )

    def predictions(self, ranking: Ranking) -> Iterable[dict[str, Any]]:
        """For every query its identifier, its text (None for other inputs), and what was found, best first."""
        for number, (identifier, query) in enumerate(zip(self.queries_ids, self.queries, strict=True)):
            yield {
                "query_id": identifier,
                "query": query if isinstance(query, str) else None,
                "results": [{"corpus_id": document, "score": score} for document, score in ranking.found(number)],
            }

    def choose_primary(self, metrics: Mapping[str, float]) -> str | None:
        """NDCG at the largest cut-off; once chosen among several similarities it stays, so that checkpoints compare."""
        suffix = f"_ndcg@{max(self.ndcg_at_k)}"
        if self.main_score_function is not None:
            return self.main_score_function + suffix
        if self.primary_metric is not None:
            chosen = self.primary_metric.removeprefix(f"{self.name}_" if self.name else "")
            if chosen in metrics:
                return chosen
        return max((key for key in sorted(metrics) if key.endswith(suffix)), key=metrics.__getitem__)

    def metric_names(self, model: Any) -> list[str]:
        """Every kind at every cut-off, for every similarity."""
        similarities = self.score_functions or [model.similarity_fn_name]
        return [f"{name}_{kind.lower()}@{k}" for name in similarities for kind, k in self._kinds()]

    def _kinds(self) -> list[tuple[str, int]]:
        """List the metrics, with their cut-offs."""
        kinds = [(kind, k) for k in self.accuracy_at_k for kind in ("Accuracy",)]
        kinds += [(kind, k) for k in self.precision_recall_at_k for kind in ("Precision", "Recall")]
        kinds += [("MRR", k) for k in self.mrr_at_k]
        kinds += [("NDCG", k) for k in self.ndcg_at_k]
        return [*kinds, *(("MAP", k) for k in self.map_at_k)]

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Columns such as `cosine-Accuracy@1`, by similarity in alphabetical order."""
        kinds = self._kinds()
        suffix = f"_ndcg@{self.ndcg_at_k[0]}"
        names = sorted(key.removesuffix(suffix) for key in metrics if key.endswith(suffix))
        return {f"{name}-{kind}@{k}": metrics[f"{name}_{kind.lower()}@{k}"] for name in names for kind, k in kinds}

    def get_config_dict(self) -> dict[str, Any]:
        """Truncation and prompts, where set."""
        keys = ["truncate_dim", "query_prompt", "query_prompt_name", "corpus_prompt", "corpus_prompt_name"]
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}


def _ids(query: Any, given: Any) -> set[Any]:
    """Identifiers of a query's relevant documents."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        shown = f"the text {given!r}; give {{{given!r}}}" if isinstance(given, str | bytes) else repr(given)
        raise InputError(f"relevant_docs[{query!r}]: expected a set of identifiers, got {shown}")
    return {document for document, grade in given.items() if grade} if isinstance(given, Mapping) else set(given)


def _truncated(similarity: Score, dim: int) -> Score:
    def score(queries: Tensor, documents: Tensor) -> Tensor:
        if documents.shape[-1] < dim:
            raise InputError(f"dims: expected at most the embedding dimension {documents.shape[-1]}, got {dim}")
        return similarity(queries[..., :dim], documents[..., :dim])

    return score
