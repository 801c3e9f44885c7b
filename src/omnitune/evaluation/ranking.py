"""From embeddings or scores to ranked documents, exact and chunk by chunk; and from these to metrics of every query.

Documents stream through in chunks and meet the queries in blocks, so neither the scores nor the documents' embeddings
have to fit at once. The order is total, (-score, place), so equal scores, as of duplicate documents, are ordered the
same way however the corpus is cut.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from omnitune import runtime
from omnitune.errors import InputError
from omnitune.ops.metrics import expect_numbers, mark_relevant, retrieval_metrics
from omnitune.ops.similarity import cos_sim, dot_score, normalize_embeddings

_SCORES_AT_ONCE = 1 << 25

Score = Callable[[Any, Any], Tensor]
"""`(queries, documents) -> (queries, documents)` similarities, higher is closer."""


class Rows(Protocol):
    """Embeddings that can be counted and sliced: a tensor, an array, or a list of token-vector matrices."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Hits:
    """The best documents of every query, best first.

    Attributes:
        scores: `(queries, k)`, on the CPU.
        rows: Place of each document in the corpus `(queries, k)`, int64, on the CPU; -1 stands for no document.
    """

    scores: Tensor
    rows: Tensor


def retrieve(
    query_embeddings: Rows,
    corpus: Iterable[Rows],
    score: Score,
    top_k: int,
    *,
    order: Tensor | None = None,
    block: int | None = None,
) -> Hits:
    """The `top_k` documents of every query.

    Args:
        query_embeddings: `(queries, dim)`.
        corpus: The documents' embeddings in consecutive chunks `(chunk, dim)`.
        score: Similarity of queries and documents.
        top_k: Documents to keep for each query; fewer when the corpus is smaller.
        order: Place of every document among equal scores `(documents,)`, int64, a permutation; corpus order by default.
        block: Queries compared at a time; by default as many as keep the scores of a chunk at 128 MB.
    """
    return retrieve_each(query_embeddings, corpus, {"": score}, top_k, order=order, block=block)[""]


def retrieve_each(
    query_embeddings: Rows,
    corpus: Iterable[Rows],
    scores: Mapping[str, Score],
    top_k: int,
    *,
    order: Tensor | None = None,
    block: int | None = None,
) -> dict[str, Hits]:
    """`retrieve` under several similarities at once, passing over the corpus once.

    Args:
        query_embeddings: `(queries, dim)`.
        corpus: The documents' embeddings in consecutive chunks `(chunk, dim)`.
        scores: Name to similarity of queries and documents.
        top_k: Documents to keep for each query; fewer when the corpus is smaller.
        order: Place of every document among equal scores `(documents,)`, int64, a permutation; corpus order by default.
        block: Queries compared at a time; by default as many as keep the scores of a chunk at 128 MB.

    Returns:
        The hits under each similarity.

    Raises:
        InputError: `top_k` is below 1, or an embedding is no number.
    """
    expect_numbers(query_embeddings, "query embeddings")
    if top_k < 1:
        raise InputError(f"top_k: expected at least 1, got {top_k}")
    best = {name: _Best(len(query_embeddings), top_k) for name in scores}
    seen = 0
    for chunk in corpus:
        expect_numbers(chunk, "corpus embeddings")
        end = seen + len(chunk)
        places = torch.arange(seen, end) if order is None else order[seen:end]
        step = block or max(1, _SCORES_AT_ONCE // max(1, len(chunk)))
        for start in range(0, len(query_embeddings), step):
            queries = query_embeddings[start : start + step]
            for name, score in scores.items():
                best[name].add(start, *_top(score(queries, chunk), places, top_k))
        for kept in best.values():
            kept.end_chunk()
        seen = end
    at = None if order is None else torch.argsort(order)
    return {name: kept.hits(at) for name, kept in best.items()}


def rank_scores(scores: Tensor, top_k: int, *, order: Tensor | None = None) -> Hits:
    """The `top_k` documents of every query, from scores that are there already.

    Args:
        scores: `(queries, documents)`, higher is closer.
        top_k: Documents to keep for each query; fewer when there are fewer.
        order: Place of every document among equal scores `(documents,)`; corpus order by default.
    """
    return retrieve(scores, [torch.arange(scores.shape[1])], lambda own, _: own, top_k, order=order)


@dataclass(frozen=True, slots=True)
class Relevance:
    """Relevant documents of every query, as row numbers.

    Attributes:
        queries: Query of every relevant pair `(pairs,)`, int64.
        documents: Document of every relevant pair `(pairs,)`, int64.
        counts: Number of relevant documents of every query `(queries,)`, int64, those outside the corpus among them.
    """

    queries: Tensor
    documents: Tensor
    counts: Tensor

    @classmethod
    def of(cls, relevant: Sequence[Iterable[int]], counts: Sequence[int] | None = None) -> "Relevance":
        """From the rows of every query's relevant documents.

        Args:
            relevant: Rows of the relevant documents of each query.
            counts: Number of them, where some are not in the corpus; by default all are.
        """
        rows = [sorted(set(documents)) for documents in relevant]
        pairs = [(query, row) for query, own in enumerate(rows) for row in own]
        queries, documents = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
        known = [len(own) for own in rows] if counts is None else list(counts)
        return cls(queries, documents, torch.tensor(known, dtype=torch.int64))


def score_ranking(hits: Hits, relevance: Relevance, **cutoffs: Sequence[int]) -> dict[str, Tensor]:
    """Metrics of every query.

    Args:
        hits: What was found, best first.
        relevance: What should have been.
        **cutoffs: Places at which each metric is taken, as `ops.metrics.retrieval_metrics` names them.

    Returns:
        `{"ndcg@10": (queries,) float64, ...}`; the mean over queries is the metric.

    Raises:
        ShapeError: `hits` does not hold one row for every query.

    Example:
        >>> hits = rank_scores(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), top_k=2)
        >>> score_ranking(hits, Relevance.of([{1}, {1}]), ndcg=[10])["ndcg@10"]
        tensor([1.0000, 0.6309], dtype=torch.float64)
    """
    relevant = mark_relevant(hits.rows, relevance.queries, relevance.documents)
    return retrieval_metrics(relevant, relevance.counts, **cutoffs)


def nearest_pairs(
    embeddings: Tensor, score: Score, top_k: int, max_pairs: int, *, block: int | None = None, chunk: int = 100_000
) -> tuple[Tensor, Tensor]:
    """The most similar pairs of different rows, out of each row's `top_k` nearest.

    Args:
        embeddings: `(rows, dim)`.
        score: Similarity of rows.
        top_k: Neighbours of each row that make pairs.
        max_pairs: Pairs to return at most.
        block: Rows compared at a time; by default as many as keep the scores of a chunk at 128 MB.
        chunk: Rows that they are compared with at a time.

    Returns:
        Scores `(pairs,)`, best first, equal ones by row; and the rows of each pair `(pairs, 2)`, int64, lower first.

    Raises:
        InputError: `top_k` or `max_pairs` is below 1, or an embedding is no number.
    """
    if min(top_k, max_pairs) < 1:
        raise InputError(f"top_k, max_pairs: expected at least 1, got {top_k} and {max_pairs}")
    if score is cos_sim:
        embeddings, score = normalize_embeddings(embeddings.float()), dot_score
    hits = retrieve(embeddings, chunks(embeddings, chunk), score, top_k + 1, block=block)
    own = torch.arange(len(hits.rows))[:, None].expand_as(hits.rows)
    other = hits.rows != own
    kept = other & (other.cumsum(dim=1) <= top_k)
    pairs = torch.stack([own[kept], hits.rows[kept]], dim=1).sort(dim=1).values
    scores = hits.scores[kept]
    # Both rows of a pair may have named it: the first one counts.
    order = (pairs[:, 0] * len(embeddings) + pairs[:, 1]).sort(stable=True)
    first = torch.ones(len(pairs), dtype=torch.bool)
    first[1:] = order.values[1:] != order.values[:-1]
    chosen = order.indices[first]
    best = chosen[scores[chosen].sort(descending=True, stable=True).indices[:max_pairs]]
    return scores[best], pairs[best]


def chunks(items: Rows, size: int, *, label: str = "Corpus chunks", show: bool = False) -> Iterable[Any]:
    """Consecutive slices of at most `size` items, with a progress bar over them when `show` is set."""
    if size < 1:
        raise InputError(f"chunk size: expected at least 1, got {size}")
    starts = range(0, len(items), size)
    return (items[start : start + size] for start in runtime.progress(starts, label=label, show=show))


def _top(scores: Tensor, places: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The best `top_k` of every row under (-score, place), in no particular order: scores and places.

    `torch.topk` picks arbitrarily among equal scores, which matters only where the last one kept equals the first one
    left out; those rows are picked again.
    """
    width = scores.shape[1]
    places = places.to(scores.device)
    if width <= top_k:
        return scores, places.expand_as(scores)
    values, columns = scores.topk(top_k + 1, dim=1)
    tied = (values[:, -1] == values[:, -2]).nonzero().squeeze(1)
    if len(tied):  # all above the last one's score, then those equal to it with the lowest places
        some, cut, last = scores[tied], values[tied, -1:], int(places.max()) + 1
        keys = places + last * (some == cut) + 2 * last * (some < cut)
        chosen = keys.topk(top_k, dim=1, largest=False).indices
        values[tied, :-1], columns[tied, :-1] = some.gather(1, chosen), chosen
    return values[:, :-1], places[columns[:, :-1]]


class _Best:
    """The best so far of every query, kept in order; blocks of queries arrive one at a time within a chunk."""

    def __init__(self, queries: int, top_k: int) -> None:
        self.top_k = top_k
        self.scores: Tensor | None = None
        self.places: Tensor | None = None
        self.queries = queries
        self.blocks: list[tuple[Tensor, Tensor]] = []

    def add(self, start: int, scores: Tensor, places: Tensor) -> None:
        """Merge the best of a chunk for the queries from `start` on."""
        if self.scores is not None and self.places is not None:
            rows = slice(start, start + len(scores))
            scores = torch.cat([self.scores[rows], scores], dim=1)
            places = torch.cat([self.places[rows], places], dim=1)
        places, first = places.sort(dim=1)
        scores, second = scores.gather(1, first).sort(dim=1, descending=True, stable=True)
        self.blocks.append((scores[:, : self.top_k], places.gather(1, second)[:, : self.top_k]))

    def end_chunk(self) -> None:
        """Take over what the blocks of the chunk left."""
        if self.blocks:
            self.scores = torch.cat([scores for scores, _ in self.blocks])
            self.places = torch.cat([places for _, places in self.blocks])
            self.blocks = []

    def hits(self, at: Tensor | None) -> Hits:
        """Translate places to rows of the corpus by `at`."""
        if self.scores is None or self.places is None:
            return Hits(torch.zeros(self.queries, 0), torch.zeros(self.queries, 0, dtype=torch.int64))
        places = self.places.cpu()
        return Hits(self.scores.cpu(), places if at is None else at[places])
