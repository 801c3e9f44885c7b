"""The nearest embeddings of a corpus, the most similar pairs in one, and its groups, as ST's `util` returns them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnitune import runtime
from omnitune.errors import InputError
from omnitune.evaluation.base import Encoder
from omnitune.evaluation.ranking import chunks, nearest_pairs, retrieve
from omnitune.ops.similarity import cos_sim, dot_score, normalize_embeddings
from omnitune.types import Embeddings


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
        query_embeddings: `(queries, dim)`, or `(dim,)` for one; dense or sparse (COO).
        corpus_embeddings: `(documents, dim)`, dense or sparse (COO).
        query_chunk_size: Queries compared at a time.
        corpus_chunk_size: Documents compared at a time.
        top_k: Documents to return for each query.
        score_function: Similarity `(queries, dim), (documents, dim) -> (queries, documents)`.

    Returns:
        For every query a list of dicts with `corpus_id` (row) and `score`, best first, equal scores by row.

    Raises:
        InputError: `top_k` is negative.

    Example:
        >>> semantic_search(model.encode_query(["how often to grease"]), model.encode_document(pages), top_k=1)
        [[{'corpus_id': 0, 'score': 0...}]]
    """
    if top_k < 0:
        raise InputError(f"top_k: expected a number of documents, got {top_k}")
    corpus = _as_tensor(corpus_embeddings)
    queries = _as_tensor(query_embeddings).to(corpus.device)
    queries = queries.unsqueeze(0) if queries.dim() == 1 else queries
    if not top_k:
        return [[] for _ in queries]
    # Torch's sparse tensors cannot be sliced; compressed rows can.
    asked: Any = Embeddings.csr(queries) if queries.is_sparse else queries
    parts: Any = chunks(Embeddings.csr(corpus) if corpus.is_sparse else corpus, corpus_chunk_size)
    compare = score_function
    if score_function is cos_sim:
        asked, parts, compare = _unit(asked), map(_unit, parts), dot_score

    def score(some: Any, part: Any) -> Tensor:
        return compare(*(one.coo() if isinstance(one, Embeddings) else one for one in (some, part)))

    hits = retrieve(asked, parts, score, top_k, block=query_chunk_size)
    return [
        [{"corpus_id": row, "score": value} for row, value in zip(rows, values, strict=True)]
        for rows, values in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
    ]


def paraphrase_mining(
    model: Encoder,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Callable[[Tensor, Tensor], Tensor] = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """The most similar pairs among some items.

    Args:
        model: Encodes them.
        sentences: The items.
        show_progress_bar: Whether to show progress.
        batch_size: Items a forward pass takes.
        query_chunk_size: As in `paraphrase_mining_embeddings`, as are all that are not named here.
        truncate_dim: Dimensions to keep of every embedding.
        prompt_name: Name of the text put before every item, among the model's prompts.
        prompt: Text put before every item.

    Returns:
        `[score, row, row]` for each pair, best first.

    Example:
        >>> score, first, second = paraphrase_mining(model, [*pages, "Weekly greasing of the bearing."], max_pairs=1)[0]
        >>> round(score, 2), first, second
        (0.72, 0, 2)
    """
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        convert_to_tensor=True,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: Tensor,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Callable[[Tensor, Tensor], Tensor] = cos_sim,
) -> list[list[float | int]]:
    """The most similar pairs of embeddings, out of each one's `top_k` nearest.

    Args:
        embeddings: `(items, dim)`.
        query_chunk_size: Items compared at a time.
        corpus_chunk_size: Items that they are compared with at a time.
        max_pairs: Pairs to return at most.
        top_k: Neighbours of each item that make pairs.
        score_function: Similarity `(n, dim), (m, dim) -> (n, m)`.

    Returns:
        `[score, row, row]` for each pair, the lower row first; best pairs first, equal scores by row.

    Example:
        >>> embeddings = model.encode(["grease it weekly", "heat the oven", "weekly greasing"])
        >>> score, first, second = paraphrase_mining_embeddings(embeddings, max_pairs=1)[0]
        >>> round(score, 2), first, second
        (0.48, 0, 2)
    """
    scores, pairs = nearest_pairs(
        _as_tensor(embeddings), score_function, top_k, max_pairs, block=query_chunk_size, chunk=corpus_chunk_size
    )
    return [[score, *rows] for score, rows in zip(scores.tolist(), pairs.tolist(), strict=True)]


def community_detection(
    embeddings: Tensor | NDArray[Any],
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups of embeddings around a centre that all are close to; no embedding is in two of them.

    Args:
        embeddings: `(items, dim)`.
        threshold: Cosine to the centre from which on an item belongs to it.
        min_community_size: Smallest group that counts.
        batch_size: Items compared with all at a time.
        show_progress_bar: Whether to show progress.

    Returns:
        Rows of every group, the centre first and then the closest; the largest groups first.

    Example:
        >>> embeddings = model.encode(["grease it weekly", "heat the oven", "weekly greasing"])
        >>> community_detection(embeddings, threshold=0.4, min_community_size=2)
        [[0, 2]]
    """
    if len(embeddings) < max(min_community_size, 1):
        return []
    vectors = normalize_embeddings(_as_tensor(embeddings).float())
    found: list[tuple[int, NDArray[Any]]] = []
    starts = range(0, len(vectors), batch_size)
    for start in runtime.progress(starts, label="Finding communities", show=show_progress_bar):
        scores = vectors[start : start + batch_size] @ vectors.T
        members = scores >= threshold
        enough = (members.sum(dim=1) >= min_community_size).nonzero().squeeze(1)
        if len(enough):
            # One sort of the members of all centres: by centre, then from the closest on.
            centre, other = members[enough].nonzero(as_tuple=True)
            closest = scores[enough][centre, other].argsort(descending=True, stable=True)
            order = closest[centre[closest].argsort(stable=True)]
            sizes = torch.bincount(centre, minlength=len(enough)).tolist()
            parts = torch.split(other[order].cpu(), sizes)
            found += [(start + row, part.numpy()) for row, part in zip(enough.tolist(), parts, strict=True)]
    used = np.zeros(len(vectors), dtype=bool)
    kept: list[list[int]] = []
    # The largest communities first, each without the items of those before it.
    for row, near in sorted(found, key=lambda community: -len(community[1])):
        free = near[~used[near]]
        if not used[row] and len(free) >= min_community_size:
            kept.append([row, *free[free != row].tolist()])
            used[kept[-1]] = True
    return sorted(kept, key=len, reverse=True)


def _unit(rows: Any) -> Any:
    """Dense or compressed rows at unit length."""
    if isinstance(rows, Embeddings):
        return Embeddings.csr(normalize_embeddings(rows.coo().float()))
    return normalize_embeddings(rows.float())


def _as_tensor(embeddings: Any) -> Tensor:
    if isinstance(embeddings, Tensor):
        return embeddings
    if isinstance(embeddings, list) and isinstance(embeddings[0], Tensor):
        return torch.stack(embeddings)
    return torch.as_tensor(embeddings)
