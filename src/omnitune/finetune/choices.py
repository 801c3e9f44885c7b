"""Ways to store the pages' vectors, side by side: dimensions, number format and index, by quality, room and time.

Everything is measured on all pages of the dataset, with its held-out queries. Times are of one query at a time on this
machine, reading back what is stored included.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omnitune.evaluation.ranking import Hits
from omnitune.finetune.measure import (
    METRIC,
    Embedded,
    TestSet,
    cosine_search,
    interval,
    score_search,
    stored_bytes,
    unit,
)
from omnitune.finetune.recipe import Evaluation
from omnitune.ops.quantize import Precision, quantize_embeddings
from omnitune.report.results import Choice

DEPTH = 100
"""Pages that are found for each query."""
TIMED = 200
"""Queries that are timed."""
TOP = 10
_GRAPHS = {"float32": "f32", "int8": "i8"}
"""Number formats of an HNSW graph, and what usearch calls them."""

Matrix = NDArray[np.float32]
Answer = Callable[[Matrix], NDArray[np.int64]]
"""From one query `(dim,)` to the rows of its first `TOP` pages."""


def measure_choices(
    embedded: Embedded,
    everything: TestSet,
    dims: Sequence[int],
    precisions: Sequence[Precision],
    settings: Evaluation,
) -> list[Choice]:
    """Measure every dimension and number format, exact and, where usearch is installed, by an HNSW graph.

    Args:
        embedded: Queries and all pages, as the finetuned model encodes them.
        everything: The held-out queries against all pages.
        dims: Leading dimensions to keep.
        precisions: Number formats.
        settings: Of the interval.
    """
    made = []
    for dim in dims:
        queries, pages = (unit(side[:, :dim]) for side in embedded)
        for precision in precisions:
            for index, search, answer, size in _indexes(embedded, everything, queries, pages, dim, precision):
                scored = score_search(search, everything)
                answer(queries[0])  # warms up
                times = []
                for query in queries[:TIMED]:
                    start = time.perf_counter()
                    answer(query)
                    times.append(1000 * (time.perf_counter() - start))
                made.append(
                    Choice(
                        dim=dim,
                        precision=precision,
                        index=index,
                        ndcg=interval(scored.metrics[METRIC], everything, settings),
                        bytes_per_page=size,
                        p50_ms=float(np.quantile(times, 0.5)),
                        p95_ms=float(np.quantile(times, 0.95)),
                    )
                )
    return made


def _indexes(
    embedded: Embedded, everything: TestSet, queries: Matrix, pages: Matrix, dim: int, precision: Precision
) -> Iterator[tuple[str, Callable[[slice], Hits], Answer, int]]:
    """Yield each index: its name, its search for many queries, its answer to one, and its bytes a page."""
    exact = cosine_search(embedded, everything.rows, dim=dim, precision=precision)

    def shallow(block: slice) -> Hits:
        found = exact(block)
        return Hits(found.scores[:, :DEPTH], found.rows[:, :DEPTH])

    yield "exact", shallow, _exact(pages, precision), stored_bytes(dim, precision)
    if precision in _GRAPHS and importlib.util.find_spec("usearch") is not None:
        from usearch.index import Index

        graph = Index(ndim=dim, metric="ip", dtype=_GRAPHS[precision])
        graph.add(np.arange(len(pages)), pages, threads=1)
        depth = min(DEPTH, len(pages))

        def search(block: slice) -> Hits:
            found = graph.search(queries[block], depth, threads=1)
            rows = torch.from_numpy(np.atleast_2d(found.keys).astype(np.int64))
            scores = 1 - torch.from_numpy(np.atleast_2d(found.distances).astype(np.float32))
            return Hits(scores, rows)

        def answer(query: Matrix) -> NDArray[np.int64]:
            rows: NDArray[np.int64] = graph.search(query, TOP, threads=1).keys.astype(np.int64)
            return rows

        yield "HNSW", search, answer, -(-int(graph.memory_usage) // len(pages))


def _exact(pages: Matrix, precision: Precision) -> Answer:
    """Compare one query with all pages, as they are stored."""
    if precision == "float32":
        return lambda query: _first(pages @ query)
    if precision in ("binary", "ubinary"):
        bits = np.asarray(quantize_embeddings(pages, "ubinary"))
        dim = pages.shape[1]
        # A sum over the bits that are set orders pages as the product with +1 and -1 does.
        return lambda query: _first(np.unpackbits(bits, axis=1)[:, :dim].astype(np.float32) @ query)
    ranges = np.stack([pages.min(axis=0), pages.max(axis=0)])
    codes: Any = quantize_embeddings(pages, "uint8", ranges=ranges)
    step = (ranges[1] - ranges[0]) / 255
    return lambda query: _first(codes.astype(np.float32) @ (step * query))


def _first(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    top = min(TOP, len(scores))
    some = np.argpartition(-scores, top - 1)[:top]
    rows: NDArray[np.int64] = some[np.argsort(-scores[some], kind="stable")]
    return rows
