"""Search in faiss and usearch indexes over whole or quantised embeddings, as the rival's `quantization` has it.

Candidates of a quantised corpus are scored again with the query as it is, where it is not quantised itself.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from omnitune import runtime
from omnitune.errors import InputError
from omnitune.ops.quantize import quantize_embeddings

logger = logging.getLogger(__name__)

Matrix = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Found:
    """Candidates of every query: scores and rows `(queries, k)`, and which of them are there."""

    scores: Matrix
    rows: Matrix
    there: Matrix


def semantic_search_faiss(
    query_embeddings: Matrix,
    corpus_embeddings: Matrix | None = None,
    corpus_index: Any = None,
    corpus_precision: Literal["float32", "uint8", "ubinary"] = "float32",
    top_k: int = 10,
    ranges: Matrix | None = None,
    calibration_embeddings: Matrix | None = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
    exact: bool = True,
    output_index: bool = False,
) -> tuple[Any, ...]:
    """The nearest documents of every query in a faiss index.

    Args:
        query_embeddings: `(queries, dim)`, best not quantised.
        corpus_embeddings: `(documents, dim)` at `corpus_precision`, of which an index is made; or
        corpus_index: one that is there.
        corpus_precision: Precision of the corpus.
        top_k: Documents of each query.
        ranges: Smallest and largest value of each dimension `(2, dim)` that the corpus was quantised with.
        calibration_embeddings: Embeddings that have these ranges.
        rescore: Score candidates again with the query as it is.
        rescore_multiplier: Candidates for each document to be returned.
        exact: Compare with every document; else a graph (HNSW) is searched.
        output_index: Return the index too.

    Returns:
        `[[{"corpus_id": row, "score": score}, ...], ...]`, the seconds that the search took, and the index if asked
        for.

    Raises:
        InputError: Not exactly one of embeddings and index is given, or the precision is none that faiss has.
        MissingExtraError: faiss is not installed.
    """
    _check(corpus_embeddings, corpus_index, corpus_precision, ("float32", "uint8", "ubinary"), top_k)
    faiss: Any = runtime.require("faiss", extra="faiss")
    if corpus_embeddings is not None:
        dim = corpus_embeddings.shape[1]
        if corpus_precision == "ubinary":
            corpus_index = faiss.IndexBinaryFlat(dim * 8) if exact else faiss.IndexBinaryHNSW(dim * 8, 16)
        else:
            flat = faiss.IndexFlatIP
            corpus_index = flat(dim) if exact else faiss.IndexHNSWFlat(dim, 16, faiss.METRIC_INNER_PRODUCT)
        corpus_index.add(corpus_embeddings)

    def search(queries: Matrix, k: int) -> _Found:
        scores, rows = corpus_index.search(queries, k)
        return _Found(scores, rows, rows != -1)

    def fetch(rows: Matrix) -> Matrix:
        return np.stack([corpus_index.reconstruct(int(row)) for row in rows])

    found, seconds = _searched(
        query_embeddings, search, fetch, corpus_precision, corpus_precision != "float32", top_k, ranges,
        calibration_embeddings, rescore, rescore_multiplier,
    )  # fmt: skip
    return (found, seconds, corpus_index) if output_index else (found, seconds)


def semantic_search_usearch(
    query_embeddings: Matrix,
    corpus_embeddings: Matrix | None = None,
    corpus_index: Any = None,
    corpus_precision: Literal["float32", "int8", "ubinary", "binary"] = "float32",
    top_k: int = 10,
    ranges: Matrix | None = None,
    calibration_embeddings: Matrix | None = None,
    rescore: bool = True,
    rescore_multiplier: int = 2,
    exact: bool = True,
    output_index: bool = False,
) -> tuple[Any, ...]:
    """The nearest documents of every query in a usearch index; arguments and result are those of the faiss one.

    Raises:
        InputError: Not exactly one of embeddings and index is given, or the precision is none that usearch has.
        MissingExtraError: usearch is not installed.
    """
    _check(corpus_embeddings, corpus_index, corpus_precision, ("float32", "int8", "ubinary", "binary"), top_k)
    runtime.require("usearch", extra="usearch")
    from usearch.index import Index

    bits = corpus_precision in ("binary", "ubinary")
    signed = corpus_precision == "binary"
    if corpus_embeddings is not None:
        metric, dtype = {"float32": ("cos", "f32"), "int8": ("ip", "i8")}.get(corpus_precision, ("hamming", "b1"))
        corpus_index = Index(ndim=corpus_embeddings.shape[1] * (8 if bits else 1), metric=metric, dtype=dtype)
        rows = _unsigned(corpus_embeddings) if signed else corpus_embeddings
        corpus_index.add(np.arange(len(rows)), rows)

    def search(queries: Matrix, k: int) -> _Found:
        matches = corpus_index.search(_unsigned(queries) if signed else queries, count=k, exact=exact)
        scores, keys = np.atleast_2d(matches.distances), np.atleast_2d(matches.keys)
        found: Any = getattr(matches, "counts", keys.shape[1])
        counts = np.reshape(found, (-1, 1))
        return _Found(scores, keys, np.arange(keys.shape[1]) < counts)

    def fetch(rows: Matrix) -> Matrix:
        return np.asarray(corpus_index.get(rows))

    found, seconds = _searched(
        query_embeddings, search, fetch, corpus_precision, corpus_precision != "float32", top_k, ranges,
        calibration_embeddings, rescore, rescore_multiplier,
    )  # fmt: skip
    return (found, seconds, corpus_index) if output_index else (found, seconds)


def _searched(
    queries: Matrix,
    search: Any,
    fetch: Any,
    precision: Any,
    quantised: bool,
    top_k: int,
    ranges: Matrix | None,
    calibration: Matrix | None,
    rescore: bool,
    multiplier: int,
) -> tuple[list[list[dict[str, Any]]], float]:
    """Search an index, score what it finds again where that is possible, and time both in seconds."""
    whole = queries.dtype not in (np.uint8, np.int8)
    again = whole and rescore and quantised
    if rescore and not again:
        logger.warning("rescore: has no effect, because %s.", "the corpus is not quantised" if whole else "queries are")
    asked = queries
    if whole:
        if precision in ("int8", "uint8") and ranges is None and again:
            basis = queries if calibration is None else calibration
            ranges = np.stack([basis.min(axis=0), basis.max(axis=0)])
        asked = np.asarray(quantize_embeddings(queries, precision, ranges, calibration))
    start = time.perf_counter()
    found = search(asked, top_k * multiplier if again else top_k)
    if again:  # the best of them by the dot product with the query as it is
        scores = np.full(found.rows.shape, -np.inf)
        for place, (query, rows, there) in enumerate(zip(np.atleast_2d(queries), found.rows, found.there, strict=True)):
            if there.any():
                scores[place, there] = _restored(fetch(rows[there]), precision, ranges, len(query)) @ query
        best = np.argsort(-scores, axis=1)[:, :top_k]
        found = _Found(*(np.take_along_axis(part, best, axis=1) for part in (scores, found.rows, found.there)))
    seconds = time.perf_counter() - start
    return [
        [
            {"corpus_id": int(row), "score": float(score)}
            for row, score, there in zip(rows, scores, marks, strict=True)
            if there
        ]
        for rows, scores, marks in zip(found.rows, found.scores, found.there, strict=True)
    ], seconds


def _restored(stored: Matrix, precision: str, ranges: Matrix | None, dim: int) -> Matrix:
    """Numbers that quantised vectors stand for, `(rows, dim)` float64: steps of their range, or bits as 0 and 1."""
    if precision in ("binary", "ubinary"):
        return np.unpackbits(stored.astype(np.uint8), axis=-1)[..., :dim].astype(np.float64)
    assert ranges is not None
    step = (ranges[1] - ranges[0]).astype(np.float32) / 255
    offset = 128 if precision == "int8" else 0
    restored: Matrix = (stored.astype(np.int64) + offset) * np.where(step == 0, 1, step) + ranges[0]
    return restored


def _unsigned(bits: Matrix) -> Matrix:
    """Signed bytes of bits as the index reads them."""
    plain: Matrix = bits.view(np.uint8) ^ np.uint8(0x80)
    return plain


def _check(embeddings: Any, index: Any, precision: str, known: tuple[str, ...], top_k: int) -> None:
    if (embeddings is None) == (index is None):
        raise InputError("corpus_embeddings, corpus_index: expected exactly one of them")
    if precision not in known:
        raise InputError(f"corpus_precision: expected one of {known}, got {precision!r}")
    if top_k < 1:
        raise InputError(f"top_k: expected at least 1, got {top_k}")
