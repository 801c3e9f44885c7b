"""The nearest embeddings of a corpus, as ST's `semantic_search` returns them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from omnitune.evaluation.search import chunks, retrieve
from omnitune.ops.similarity import cos_sim, dot_score, normalize_embeddings


def semantic_search(
    query_embeddings: Tensor,
    corpus_embeddings: Tensor,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: Callable[[Tensor, Tensor], Tensor] = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """The `top_k` nearest corpus embeddings of every query.

    Args:
        query_embeddings: `(queries, dim)`, or `(dim,)` for one.
        corpus_embeddings: `(documents, dim)`.
        query_chunk_size: Queries compared at a time.
        corpus_chunk_size: Documents compared at a time.
        top_k: Documents to return for each query.
        score_function: Similarity `(queries, dim), (documents, dim) -> (queries, documents)`.

    Returns:
        For every query a list of `{"corpus_id": row, "score": similarity}`, best first, equal scores by row.
    """
    corpus = _as_tensor(corpus_embeddings)
    queries = _as_tensor(query_embeddings).to(corpus.device)
    queries = queries.unsqueeze(0) if queries.dim() == 1 else queries
    parts: Any = chunks(corpus, corpus_chunk_size)
    score: Callable[[Any, Any], Tensor] = score_function
    if score_function is cos_sim:
        queries = normalize_embeddings(queries.float())
        parts = (normalize_embeddings(part.float()) for part in parts)
        score = dot_score
    hits = retrieve(queries, parts, score, top_k, block=query_chunk_size)
    return [
        [{"corpus_id": row, "score": value} for row, value in zip(rows, values, strict=True)]
        for rows, values in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
    ]


def _as_tensor(embeddings: Any) -> Tensor:
    if isinstance(embeddings, Tensor):
        return embeddings
    if isinstance(embeddings, list) and isinstance(embeddings[0], Tensor):
        return torch.stack(embeddings)
    return torch.as_tensor(embeddings)
