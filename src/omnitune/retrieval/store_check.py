"""A database that holds a retriever's vectors, compared with the retriever query by query."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnitune.retrieval.base import best_rows
from omnitune.retrieval.dense_index import DenseIndex
from omnitune.retrieval.late_index import LateIndex
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stores import LanceStore, QdrantStore, vector_stages

COMPARED = 10
"""Pages of each query that are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One stage in a store beside the same stage here.

    Attributes:
        stage: Which.
        recall: Share of the first pages here that are among the first pages there.
        difference: Largest difference of a score, of both, at one rank or for one page.
        store_ms: Median milliseconds of a query there.
        index_ms: Median milliseconds of a query here, exact.
        queries: How many were asked.
    """

    stage: str
    recall: float
    difference: float
    store_ms: float
    index_ms: float
    queries: int

    @property
    def exact(self) -> bool:
        """True where pages and scores are the same, up to what float32 can tell apart."""
        return self.difference < 1e-4


def measure_store(
    retriever: Retriever,
    store: LanceStore | QdrantStore,
    queries: Sequence[str],
    *,
    exact: bool = True,
) -> list[Measured]:
    """Compare every stage's search in a store with the search here.

    Args:
        retriever: Whose pages were written.
        store: Where they are.
        queries: Texts.
        exact: Whether the store compares with every page.
    """
    made = []
    allowed = retriever.segments.allowed(None)
    rows_of = {str(retriever.segments.entry(row)["id"]): row for row in np.flatnonzero(allowed).tolist()}
    for kind, index in vector_stages(retriever).items():
        stage: Any = retriever.stages[kind]
        options: dict[str, Any] = {"exact": True} if isinstance(index, LateIndex) else {}
        shared, worst = [], 0.0
        seconds: tuple[list[float], list[float]] = ([], [])
        for vectors in stage.encode_queries(list(queries)):
            asked = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
            start = time.perf_counter()
            scores = np.asarray(next(iter(index.scores([asked] if options else asked, allowed, **options))))
            rows = best_rows(scores, COMPARED)
            seconds[0].append(time.perf_counter() - start)
            if isinstance(index, DenseIndex):
                asked = asked / max(float(np.linalg.norm(asked)), 1e-12)  # as the index compares them
            start = time.perf_counter()
            found = store.search(kind, asked, COMPARED, exact=exact)
            seconds[1].append(time.perf_counter() - start)
            shared.append(len({rows_of[one] for one, _ in found} & set(rows.tolist())) / max(len(rows), 1))
            size = max(1.0, float(np.abs(scores[rows]).max()))
            worst = math.inf if len(found) != len(rows) else worst
            for (one, score), row in zip(found, rows, strict=False):
                # At its rank, and for its page: pages of equal scores may change places.
                worst = max(
                    worst, abs(score - float(scores[row])) / size, abs(score - float(scores[rows_of[one]])) / size
                )
        made.append(
            Measured(
                stage=kind,
                recall=float(np.mean(shared)),
                difference=worst,
                store_ms=1000 * float(np.median(seconds[1])),
                index_ms=1000 * float(np.median(seconds[0])),
                queries=len(queries),
            )
        )
    return made
