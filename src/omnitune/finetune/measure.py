"""Measuring retrievers on held-out queries: embeddings on disk, rankings, metrics by query, intervals.

Every retriever becomes a `Search`: a ranking of all pages for some of the queries. All that follows is the same for all
of them, and the ranking and its metrics are those of the evaluators (`evaluation.ranking`, `ops.metrics`).
"""

import logging
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omnitune import folders, io
from omnitune.documents.dataset import DocumentDataset, load
from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.evaluation.ranking import Hits, retrieve
from omnitune.finetune.choose import ModelChoice, load_model, loading
from omnitune.finetune.recipe import Evaluation, Recipe
from omnitune.finetune.steps import Log, announce
from omnitune.model.dense import SentenceTransformer
from omnitune.ops.bm25 import BM25
from omnitune.ops.metrics import mark_relevant, retrieval_metrics
from omnitune.ops.quantize import Precision, quantize_embeddings
from omnitune.ops.significance import paired_bootstrap
from omnitune.report.parts import Contrast, Interval
from omnitune.retrieval.store import encode_corpus

logger = logging.getLogger(__name__)

METRIC = "ndcg@10"
METRIC_SHOWN = "NDCG@10"
OTHERS = {"recall@1": "recall@1", "recall@10": "recall@10", "mrr@10": "MRR@10"}

CHUNK = 128
"""Pages encoded at a time: enough to sort by length, few enough to hold and to see the bar move."""

TEXT_SHARE = 0.5
"""Least share of pages with a text layer for which a baseline on the text layer says something."""

_SCORES_AT_ONCE = 1 << 25
_DEPTH = 100

Matrix = NDArray[np.float32]

Embedded = tuple[Matrix, Matrix]
"""Embeddings of the queries `(queries, dim)` and of all pages `(pages, dim)`."""

Search = Callable[[slice], Hits]
"""Ranks all pages for a slice of the queries: rows `(queries, pages)`, best first; a score of -inf is not found."""


# --- embeddings -------------------------------------------------------------------------------------------------------


def base_inputs(chosen: ModelChoice, dataset: DocumentDataset) -> dict[str, Any]:
    """All that the embeddings of the base model depend on: the inputs of the step `base`."""
    return {
        "dataset": dataset.fingerprint,
        "model": chosen.identity(),
        "batch_size": chosen.recipe.evaluation.batch_size,
        "windows": dataset.as_text and chosen.recipe.retriever.build,
    }


def encode_test(
    model: SentenceTransformer,
    queries: Sequence[str],
    pages: Sequence[Any],
    folder: Path,
    *,
    batch_size: int,
    label: str,
) -> None:
    """Encode queries and pages into `queries.npy` and `pages.npy`, both float32.

    Args:
        model: The encoder.
        queries: Texts.
        pages: Page images, or texts; slices of it are taken one after another.
        folder: Where the embeddings go.
        batch_size: Items encoded at once.
        label: Label of the progress bar.
    """
    asked = model.encode_query(list(queries), batch_size=batch_size, show_progress_bar=False)
    encoded = encode_corpus(model, pages, label=label, unit="page", chunk_size=CHUNK, batch_size=batch_size)
    save_test(folder, np.asarray(asked), encoded.values)


TEST_FILES = ("queries.npy", "pages.npy")
"""Files of `save_test`."""


def save_test(folder: Path, queries: Matrix, pages: Matrix) -> None:
    """Write embeddings of queries and pages for `load_test`."""
    for name, values in (("queries", queries), ("pages", pages)):
        with io.writing(folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.asarray(values, dtype=np.float32))


def load_test(folder: Path) -> Embedded:
    """Embeddings that `encode_test` wrote."""
    return np.load(folder / "queries.npy", allow_pickle=False), np.load(folder / "pages.npy", allow_pickle=False)


def unit(vectors: Matrix) -> Matrix:
    """Rows scaled to length 1 `(rows, dim)`."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Matrix = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


# --- the test ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TestSet:
    """Held-out queries and the pages that answer them.

    Attributes:
        queries: Texts.
        relevant: Rows of the pages that answer each query; all of them are among `rows`.
        rows: Pages that are searched: rows of the corpus, ascending.
        clusters: Unit each query belongs to when resampling: queries of one page succeed and fail together.
    """

    __test__ = False  # not a test class, whatever its name says to pytest

    queries: Sequence[str]
    relevant: Sequence[Sequence[int]]
    rows: Sequence[int]
    clusters: Sequence[Hashable]


def test_sets(dataset: DocumentDataset) -> tuple[TestSet, TestSet]:
    """Test queries against the pages of held-out documents, and against all pages.

    A page of a training document that answers a query as well counts where all pages are searched.
    """
    row = {page: number for number, page in enumerate(dataset.page_ids)}
    held_out = [row[page] for page in dataset.pages_of("test")]
    answers = [sorted(row[page] for page in dataset.relevant[query]) for query in dataset.queries]
    among = set(held_out)
    near = [[page for page in pages if page in among] for pages in answers]
    queries = list(dataset.queries.values())
    clusters = [pages[0] for pages in near]
    return (
        TestSet(queries=queries, relevant=near, rows=held_out, clusters=clusters),
        TestSet(queries=queries, relevant=answers, rows=list(range(len(row))), clusters=clusters),
    )


test_sets.__test__ = False  # type: ignore[attr-defined]  # nor is this a test


# --- searches ---------------------------------------------------------------------------------------------------------


def cosine_search(
    embedded: Embedded, rows: Sequence[int], *, dim: int | None = None, precision: Precision = "float32"
) -> Search:
    """Rank pages by cosine similarity, with the pages cut to `dim` dimensions and stored in `precision`.

    The query stays in float32, as it does in a search engine that stores pages in few bits.

    Args:
        embedded: Queries and all pages.
        rows: Pages that are searched.
        dim: Leading dimensions to keep; None keeps all.
        precision: Of the stored pages.
    """
    queries, pages = embedded
    asked = torch.from_numpy(unit(queries[:, :dim]))
    stored = torch.from_numpy(_stored(unit(pages[list(rows)][:, :dim]), precision))
    return lambda block: retrieve(asked[block], [stored], lambda some, among: some @ among.T, len(stored))


def bm25_search(queries: Sequence[str], texts: Sequence[str]) -> Search:
    """Rank pages by BM25 on their text layers; a page that shares no word with the query is not found."""
    index = BM25(texts)

    def scores(some: range, among: range) -> torch.Tensor:
        del among  # all pages: their statistics are those of the pages that are searched
        found = torch.from_numpy(index.scores(queries[some.start : some.stop]))
        return found.where(found > 0, -torch.inf)

    everything = range(len(queries))
    return lambda block: retrieve(everything[block], [range(len(texts))], scores, len(texts))


def reranked_search(first: Search, candidates: NDArray[np.int64], scores: Matrix) -> Search:
    """Rank each query's candidates by new scores; the pages behind them stay as another search found them.

    Args:
        first: The other search.
        candidates: Pages that were scored anew `(queries, depth)`, best first in the other search.
        scores: Their new scores `(queries, depth)` float32.
    """

    def search(block: slice) -> Hits:
        found = first(block)
        columns, again = torch.from_numpy(candidates[block]), torch.from_numpy(scores[block])
        # Positions become the scores, because the two kinds of score do not compare, and the first may be -inf.
        behind = -torch.arange(found.rows.shape[1], dtype=torch.float32).expand_as(found.scores)
        behind = behind.where(found.scores > -torch.inf, -torch.inf)
        order = again.sort(dim=1, descending=True, stable=True).indices  # equal new scores keep the old order
        ahead = columns.shape[1] - order.argsort(dim=1).float()
        placed = torch.empty_like(behind).scatter(1, found.rows, behind).scatter(1, columns, ahead)
        ranked = placed.sort(dim=1, descending=True, stable=True)
        return Hits(ranked.values, ranked.indices)

    return search


def has_text(texts: Sequence[str]) -> bool:
    """Tell whether enough pages have a text layer for a baseline on it to mean something."""
    return sum(bool(text.strip()) for text in texts) >= TEXT_SHARE * len(texts)


def stored_bytes(dim: int, precision: Precision) -> int:
    """Bytes that one page's embedding takes."""
    return {"float32": 4 * dim, "int8": dim, "uint8": dim, "binary": -(-dim // 8), "ubinary": -(-dim // 8)}[precision]


def _stored(vectors: Matrix, precision: Precision) -> Matrix:
    """Quantize vectors and read them back `(rows, dim)` float32."""
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        bits = np.unpackbits(np.asarray(quantize_embeddings(vectors, "ubinary")), axis=1)[:, : vectors.shape[1]]
        return unit(bits.astype(np.float32) * 2 - 1)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    codes: Any = quantize_embeddings(vectors, "uint8", ranges=ranges)
    step = (ranges[1] - ranges[0]) / 255
    return unit((ranges[0] + (codes.astype(np.float32) + 0.5) * step).astype(np.float32))


# --- metrics ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryMetrics:
    """Results of one retriever, query by query, so that two of them can be compared.

    Attributes:
        metrics: Value of each query by metric, `{"ndcg@10": (queries,) float64}`.
        rank: Rank of the best relevant page, from 1 `(queries,)`; one more than the pages where none is found.
        best: Row of that page `(queries,)`; the first relevant one where none is found.
        first: Row of the page ranked first `(queries,)`.
    """

    metrics: Mapping[str, NDArray[np.float64]]
    rank: NDArray[np.int64]
    best: NDArray[np.int64]
    first: NDArray[np.int64]

    def mean(self, metric: str) -> float:
        """Mean over queries."""
        return float(self.metrics[metric].mean())


def score_search(search: Search, test: TestSet) -> QueryMetrics:
    """Compare a ranking of the pages `test.rows`, in that order, with the relevant ones."""
    place = {row: column for column, row in enumerate(test.rows)}
    relevant = [[place[row] for row in rows] for rows in test.relevant]
    # Whole rankings are held for some queries at a time: the rank of a page that is found late is shown too.
    size = max(1, _SCORES_AT_ONCE // max(1, len(test.rows)))
    metrics: dict[str, list[NDArray[np.float64]]] = {}
    rank, best, first = list[NDArray[Any]](), list[NDArray[Any]](), list[NDArray[Any]]()
    for start in range(0, len(test.queries), size):
        hits, wanted = search(slice(start, start + size)), relevant[start : start + size]
        found = hits.rows.where(hits.scores > -torch.inf, -1)
        queries = torch.tensor([query for query, pages in enumerate(wanted) for _ in pages], dtype=torch.int64)
        right = mark_relevant(found, queries, torch.tensor([page for pages in wanted for page in pages]))
        counts = torch.tensor([len(pages) for pages in wanted])
        for name, values in retrieval_metrics(right[:, :_DEPTH], counts).items():
            metrics.setdefault(name, []).append(values.numpy())
        any_right, at = right.any(dim=1), right.float().argmax(dim=1)
        rank.append(torch.where(any_right, at + 1, found.shape[1] + 1).numpy())
        best_found = hits.rows.gather(1, at.unsqueeze(1)).squeeze(1)
        best.append(torch.where(any_right, best_found, torch.tensor([pages[0] for pages in wanted])).numpy())
        first.append(hits.rows[:, 0].numpy())
    rows = np.asarray(test.rows, dtype=np.int64)
    return QueryMetrics(
        metrics={name: np.concatenate(values) for name, values in metrics.items()},
        rank=np.concatenate(rank),
        best=rows[np.concatenate(best)],
        first=rows[np.concatenate(first)],
    )


def interval(values: NDArray[np.float64], test: TestSet, settings: Evaluation) -> Interval:
    """Mean over queries with its bootstrap interval."""
    found = paired_bootstrap(np.zeros_like(values), values, clusters=test.clusters, **_resampling(settings))
    return Interval(found.candidate, found.low, found.high)


def contrast(
    base: QueryMetrics, finetuned: QueryMetrics, test: TestSet, settings: Evaluation, *, label: str, dim: int
) -> Contrast:
    """Compare two retrievers on the same queries, by paired bootstrap of NDCG@10."""
    before, after = base.metrics[METRIC], finetuned.metrics[METRIC]
    found = paired_bootstrap(before, after, clusters=test.clusters, **_resampling(settings))
    return Contrast(
        label=label,
        base=interval(before, test, settings),
        finetuned=interval(after, test, settings),
        difference=Interval(found.difference, found.low, found.high),
        p_value=found.p_value,
        queries=found.queries,
        pages=len(test.rows),
        dim=dim,
    )


def _resampling(settings: Evaluation) -> dict[str, Any]:
    return {"resamples": settings.resamples, "confidence": settings.confidence, "seed": settings.seed}


# --- a model by itself ------------------------------------------------------------------------------------------------


def default_dims(width: int) -> list[int]:
    """A model's own dimension and the powers of two below it, down to 64, or to an eighth of a small model's."""
    lowest = min(64, max(8, width // 8))
    powers = [1 << n for n in range(width.bit_length(), 2, -1)]
    return [width, *(power for power in powers if lowest <= power < width)]


def measured_dims(width: int, recipe: Recipe) -> list[int]:
    """Dimensions to evaluate of a model of `width`, largest first: the recipe's, else the trained; always the full."""
    trained = None if recipe.matryoshka is None else recipe.matryoshka.get("matryoshka_dims")
    dims = recipe.evaluation.dims or (default_dims(width) if recipe.matryoshka is not None and not trained else trained)
    return sorted({width, *(dims or [])} - {dim for dim in dims or [] if dim > width}, reverse=True)


def evaluate(
    model: str | Path,
    dataset: str | Path | DocumentDataset,
    out: str | Path | None = None,
    *,
    batch_size: int = 32,
    log: Log = logger.info,
) -> dict[str, Any]:
    """Measure a model on the held-out queries of a dataset at every useful dimension.

    Args:
        model: A directory, a repository or `"embedded"`.
        dataset: What `prepare` returned, or its folder.
        out: JSON file to write the results to; None writes none.
        batch_size: Items encoded at once.
        log: Called with what it will cost, a line at a time.

    Returns:
        A dict of `model`, `dataset`, `queries` and `results`, which has `dim`, `searched`, `pages`, `metrics` and
        `interval` (of NDCG@10) for every dimension.

    Raises:
        DatasetError: There is no dataset in the folder.
        CheckpointError: The model cannot be loaded.

    Example:
        >>> dataset = documents.prepare("manuals", "run/dataset")
        >>> evaluate("embedded", dataset, "numbers.json")["results"][0]["metrics"]["NDCG@10"]
        1.0
    """
    opened = dataset if isinstance(dataset, DocumentDataset) else load(dataset)
    if out is not None:
        folders.writable_folder(Path(out).parent)
    test, everything = test_sets(opened)
    encoder = load_model({"model_name_or_path": str(model)}, opened.kind)
    announce(
        f"Encoding {len(opened.pages):,} {opened.kind.words.page}s",
        opened.pages,
        lambda few: encoder.encode_document(few, batch_size=batch_size, show_progress_bar=False),
        log,
    )
    with tempfile.TemporaryDirectory() as folder:
        encode_test(encoder, test.queries, opened.pages, Path(folder), batch_size=batch_size, label="Encoding")
        embedded = load_test(Path(folder))
    results = []
    for searched, among in (("of held-out documents", test), ("in all", everything)):
        for dim in default_dims(embedded[1].shape[1]):
            scored = score_search(cosine_search(embedded, among.rows, dim=dim), among)
            spread = interval(scored.metrics[METRIC], among, Evaluation())
            results.append(
                {
                    "dim": dim,
                    "searched": searched,
                    "pages": len(among.rows),
                    "metrics": {shown: scored.mean(name) for name, shown in {METRIC: METRIC_SHOWN, **OTHERS}.items()},
                    "interval": [spread.low, spread.high],
                }
            )
    found = {"model": str(model), "dataset": str(opened.folder), "queries": len(test.queries), "results": results}
    if out is not None:
        io.write_json(out, found)
    return found


def compare_on(evaluator: InformationRetrievalEvaluator, chosen: ModelChoice, finetuned: Path) -> dict[str, Any]:
    """Compare base and finetuned model on an evaluator's queries, at every dimension that was trained.

    Returns:
        `{"metric", "queries", "pages", "dimensions": [{"dim", "base", "finetuned", "low", "high", "p_value"}]}`.
    """
    settings = chosen.recipe.evaluation
    base = chosen.load()
    dims = measured_dims(base.get_embedding_dimension() or 0, chosen.recipe)
    before = evaluator.rank_dims(base, dims)
    after = evaluator.rank_dims(SentenceTransformer(str(finetuned), **loading(chosen.recipe)), dims)
    rows = []
    for dim in dims:
        pair = (before[dim].per_query[METRIC], after[dim].per_query[METRIC])
        found = paired_bootstrap(*pair, **_resampling(settings))
        rows.append(
            {
                "dim": dim,
                "base": found.baseline,
                "finetuned": found.candidate,
                "low": found.low,
                "high": found.high,
                "p_value": found.p_value,
            }
        )
    return {
        "metric": METRIC_SHOWN,
        "queries": len(evaluator.queries),
        "pages": len(evaluator.corpus_ids),
        "confidence": settings.confidence,
        "dimensions": rows,
    }
