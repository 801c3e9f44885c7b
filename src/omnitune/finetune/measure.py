"""How well a retriever finds the pages of a test, query by query, so that two of them can be compared.

Every retriever is a score of every page for every query; what is measured does not know where the scores came from.
Equal scores keep corpus order, as in `evaluation.search`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnitune.ops.metrics import mark_relevant, retrieval_metrics
from omnitune.ops.quantize import Precision, quantize_embeddings
from omnitune.ops.significance import Comparison, paired_bootstrap
from omnitune.report.results import Contrast, Interval

Matrix = NDArray[np.float32]
Scorer = Callable[[slice], Tensor]
"""Scores of all pages for a slice of the queries `(queries, pages)`, float; -inf where a page is not found."""

_SCORES_AT_ONCE = 1 << 25
_DEPTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """Held-out queries and the pages that answer them.

    Attributes:
        queries: Texts.
        relevant: Rows of the pages that answer each query.
        rows: Pages that are searched: rows of the corpus, ascending.
        clusters: Unit each query belongs to when resampling: queries of one page succeed and fail together.
    """

    __test__ = False  # not a test class, whatever its name says to pytest

    queries: Sequence[str]
    relevant: Sequence[Sequence[int]]
    rows: Sequence[int]
    clusters: Sequence[Hashable]

    def among(self, rows: Sequence[int]) -> "Test":
        """The same queries, searched among other pages."""
        return Test(queries=self.queries, relevant=self.relevant, rows=rows, clusters=self.clusters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What one retriever made of a test.

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


def judge(scorer: Scorer, test: Test) -> Judged:
    """Rank the test's pages by score and compare with the relevant ones.

    Args:
        scorer: Scores of the pages `test.rows`, in that order.
        test: Queries and relevant pages; every relevant page is among the rows.
    """
    place = {row: column for column, row in enumerate(test.rows)}
    relevant = [[place[row] for row in rows] for rows in test.relevant]
    block = max(1, _SCORES_AT_ONCE // max(1, len(test.rows)))
    parts = [
        _judge_block(scorer(slice(start, start + block)), relevant[start : start + block])
        for start in range(0, len(test.queries), block)
    ]
    rows = np.asarray(test.rows, dtype=np.int64)
    return Judged(
        metrics={name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]},
        rank=np.concatenate([part[1] for part in parts]),
        best=rows[np.concatenate([part[2] for part in parts])],
        first=rows[np.concatenate([part[3] for part in parts])],
    )


def _judge_block(
    scores: Tensor, relevant: Sequence[Sequence[int]]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    ranked = torch.sort(scores.float(), dim=1, descending=True, stable=True)
    found = ranked.indices.where(ranked.values > -torch.inf, -1)
    queries = torch.tensor([query for query, pages in enumerate(relevant) for _ in pages], dtype=torch.int64)
    pages = torch.tensor([page for pages in relevant for page in pages], dtype=torch.int64)
    hits = mark_relevant(found, queries, pages)
    counts = torch.tensor([len(pages) for pages in relevant])
    per_query = retrieval_metrics(hits[:, :_DEPTH], counts)
    any_hit = hits.any(dim=1)
    at = hits.float().argmax(dim=1)
    best = ranked.indices.gather(1, at.unsqueeze(1)).squeeze(1)
    firsts = torch.tensor([pages[0] for pages in relevant])
    return (
        {name: values.numpy() for name, values in per_query.items()},
        torch.where(any_hit, at + 1, scores.shape[1] + 1).numpy(),
        torch.where(any_hit, best, firsts).numpy(),
        ranked.indices[:, 0].numpy(),
    )


def cosine_scorer(
    queries: Matrix, pages: Matrix, *, dim: int | None = None, precision: Precision = "float32"
) -> Scorer:
    """Cosine similarity, with the pages cut to `dim` dimensions and stored in `precision`.

    The query stays in float32, as it does in a search engine that stores pages in few bits.

    Args:
        queries: `(queries, dimensions)` float32.
        pages: `(pages, dimensions)` float32.
        dim: Leading dimensions to keep; None keeps all.
        precision: Of the stored pages.
    """
    asked = unit(queries[:, :dim])
    stored = torch.from_numpy(_stored(unit(pages[:, :dim]), precision))
    return lambda block: torch.from_numpy(asked[block]) @ stored.T


def reranked_scorer(first: Scorer, candidates: NDArray[np.int64], scores: Matrix) -> Scorer:
    """Order each query's first candidates by another model's scores, and the rest behind them as they were found.

    Positions are scores here, not the scores themselves: those may be -inf, or be on another scale.

    Args:
        first: Scores of all pages.
        candidates: Columns of the pages that were scored again `(queries, depth)`.
        scores: Their new scores `(queries, depth)` float32.
    """
    columns, again = torch.from_numpy(candidates), torch.from_numpy(scores)

    def scores_of(block: slice) -> Tensor:
        found = first(block)
        behind = _above(found).where(found > -torch.inf, -torch.inf)
        # Above the number of pages for what was scored again; equal new scores keep the old order.
        return behind.scatter(1, columns[block], _above(again[block]) + found.shape[1])

    return scores_of


def _above(scores: Tensor) -> Tensor:
    """Number of columns that each score is before `(queries, pages)`: equal ones are before those after them."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    return scores.shape[1] - 1 - order.argsort(dim=1).float()


def stored_bytes(dim: int, precision: Precision) -> int:
    """Bytes that one page's embedding takes."""
    return {"float32": 4 * dim, "int8": dim, "uint8": dim, "binary": -(-dim // 8), "ubinary": -(-dim // 8)}[precision]


def unit(vectors: Matrix) -> Matrix:
    """Rows of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Matrix = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def _stored(vectors: Matrix, precision: Precision) -> Matrix:
    """What the vectors read as once stored: quantized and read back, `(rows, dim)` float32."""
    if precision == "float32":
        return vectors
    if precision in ("binary", "ubinary"):
        bits = np.unpackbits(np.asarray(quantize_embeddings(vectors, "ubinary")), axis=1)[:, : vectors.shape[1]]
        return unit(bits.astype(np.float32) * 2 - 1)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    codes: Any = quantize_embeddings(vectors, "uint8", ranges=ranges)
    step = (ranges[1] - ranges[0]) / 255
    return unit((ranges[0] + (codes.astype(np.float32) + 0.5) * step).astype(np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How intervals are made: number of resamples, level, seed."""

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 12

    def compare(self, base: NDArray[np.float64], finetuned: NDArray[np.float64], test: Test) -> Comparison:
        """Paired bootstrap of two retrievers on the same queries."""
        return paired_bootstrap(
            base,
            finetuned,
            clusters=test.clusters,
            resamples=self.resamples,
            confidence=self.confidence,
            seed=self.seed,
        )

    def interval(self, values: NDArray[np.float64], test: Test) -> Interval:
        """Mean over queries with its interval."""
        found = self.compare(np.zeros_like(values), values, test)
        return Interval(found.candidate, found.low, found.high)

    def contrast(self, base: Judged, finetuned: Judged, test: Test, *, label: str, dim: int, metric: str) -> Contrast:
        """Base against finetuned, as the report shows it."""
        before, after = base.metrics[metric], finetuned.metrics[metric]
        found = self.compare(before, after, test)
        return Contrast(
            label=label,
            base=self.interval(before, test),
            finetuned=self.interval(after, test),
            difference=Interval(found.difference, found.low, found.high),
            p_value=found.p_value,
            queries=found.queries,
            pages=len(test.rows),
            dim=dim,
        )
