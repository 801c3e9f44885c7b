"""MaxSim: for every token of a query its closest token of a document, added up.

One operator serves similarity, losses, evaluators and indexes. It works on packed token vectors, so a document costs
its own tokens and no padding, and block by block, so that no `(queries, documents, tokens, tokens)` tensor is made.

Only winners matter: forward keeps for every query token and document the one token that won, `(query tokens,
documents)` int32, and backward touches nothing else. Winners are found while a block is in the cache, because finding
them again in backward costs the product once more: 1.28 s against 0.68 s for 64 queries and 128 pages on one core
(`benchmarks/bench_maxsim.py`). On the host numpy finds them, whose argmax is vectorised where torch's is not. Ties go
to the first token, as torch has it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from omnitune.errors import InputError, ShapeError
from omnitune.types import Embeddings

__all__ = ["EMPTY_DOCUMENT", "maxsim", "streamed_maxima", "token_maxima", "xtr"]

EMPTY_DOCUMENT = -1e9
"""Score of a document without a token: below every other, and finite, so that a softmax takes it."""

BLOCK = 1 << 22
"""Similarities that exist at the same time: 16 MB in float32."""

_PRODUCTS_AT_ONCE, _FEWEST, _MOST = 1 << 18, 1024, 4096
"""Similarities of a streamed block, and the document tokens it has at least and at most. Blocks stay in the
processor's cache: 206,000 tokens of 128 half-precision numbers against a query of 20 take 44 ms in blocks of 4,096 and
126 ms in blocks of 65,536 (one core); 48,000 of 384 numbers against 12 take 9 ms in blocks of 4,096, 13 ms in blocks of
8,192 (two cores)."""

DOCUMENT_TOKENS = 4096
"""Document tokens of a block; a longer document is a block of its own."""

FEW_QUERY_TOKENS = 64
"""Query tokens up to which documents are streamed where nothing is learned."""

SIMILAR_LENGTH = 0.9
"""Documents of a block have at least this share of the longest one's tokens; the others repeat their last token."""

Pairs = tuple[Tensor, Tensor]
"""Numbers of queries and of documents `(pairs,)` each: pair i is query `pairs[0][i]` with document `pairs[1][i]`."""


def maxsim(
    queries: Embeddings,
    documents: Embeddings,
    pairs: Pairs | None = None,
    *,
    mean: bool = False,
    smooth: float | None = None,
) -> Tensor:
    """Late-interaction scores of all pairs, or of the pairs that are named.

    A query token counts with its vector's length: what it weighs is what it was multiplied by.

    Args:
        queries: Token vectors, packed or padded.
        documents: Token vectors of the same dimension.
        pairs: The pairs to score; None scores every query with every document.
        mean: Divide by the query's number of tokens.
        smooth: Temperature of a smooth maximum, `t * logsumexp(similarities / t)`, through which every document token
            gets a gradient; None takes the maximum.

    Returns:
        `(queries, documents)` or `(pairs,)`, float32 at least. A document without tokens scores -1e9, a query without
        tokens 0 with any other document.

    Raises:
        ShapeError: Dimensions differ, or the embeddings are no token vectors.
        InputError: `smooth` is not positive.

    Source:
        Khattab and Zaharia 2020 (arXiv:2004.12832); must agree with `sentence_transformers.util.maxsim`.

    Example:
        >>> query = Embeddings.packed([torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
        >>> maxsim(query, Embeddings.packed([torch.tensor([[0.5, 0.0], [0.0, 0.25]])]))
        tensor([[0.7500]])
    """
    queries, documents = _packed(queries, documents)
    lengths = queries.lengths.to(documents.values.device)
    if pairs is None:
        maxima = token_maxima(queries, documents, smooth=smooth)
        scores = torch.segment_reduce(maxima, "sum", lengths=lengths, axis=0, unsafe=True, initial=0)
        empty, counts = (documents.lengths == 0).to(maxima.device)[None], lengths[:, None]
    else:
        own, other = (each.cpu() for each in pairs)
        maxima = token_maxima(queries, documents, (own, other), smooth=smooth)
        counts = queries.lengths[own].to(maxima.device)
        scores = torch.segment_reduce(maxima, "sum", lengths=counts, axis=0, unsafe=True, initial=0)
        empty = (documents.lengths[other] == 0).to(maxima.device)
    scores = scores.masked_fill(empty, EMPTY_DOCUMENT)
    return scores / counts.clamp(min=1) if mean else scores


def token_maxima(
    queries: Embeddings, documents: Embeddings, pairs: Pairs | None = None, *, smooth: float | None = None
) -> Tensor:
    """Similarity of every query token to the closest token of a document.

    Args:
        queries: Token vectors, packed or padded.
        documents: Likewise.
        pairs: See `maxsim`.
        smooth: See `maxsim`.

    Returns:
        `(query tokens, documents)`; with `pairs`, `(tokens of every pair's query, one after another,)`. 0 for a
        document without tokens. float32 at least.

    Raises:
        ShapeError: Dimensions differ, or the embeddings are no token vectors.
        InputError: `smooth` is not positive.
    """
    queries, documents = _packed(queries, documents)
    if smooth is not None and not smooth > 0:
        raise InputError(f"smooth: expected a positive temperature or None, got {smooth}")
    if pairs is None and smooth is None and _streams(queries, documents):
        return _streamed(queries, documents)
    blocks = list(_all_pairs(queries, documents) if pairs is None else _named_pairs(queries, documents, pairs))
    rows = len(queries.values) if pairs is None else int(queries.lengths[pairs[0].cpu()].sum())
    shape = (rows, len(documents)) if pairs is None else (rows,)
    if smooth is not None:
        return _smooth(queries.values, documents.values, blocks, shape, smooth)
    found: Tensor = _Maxima.apply(queries.values, documents.values, blocks, shape)
    return found


def xtr(queries: Embeddings, documents: Embeddings, pairs: Pairs | None = None, *, top_k: int = 256) -> Tensor:
    """Scores of what token retrieval finds: a query token counts only among the `top_k` tokens closest to it.

    Args:
        queries: Token vectors, packed or padded.
        documents: Those that are searched together: the batch in training.
        pairs: The pairs to score; all documents are searched nevertheless. None scores all pairs.
        top_k: Document tokens that every query token retrieves.

    Returns:
        Mean similarity of the retrieved maxima, `(queries, documents)` or `(pairs,)`: divided by the number of query
        tokens that retrieved a token of the document, at least 1.

    Raises:
        InputError: `top_k` is not positive.

    Source:
        Lee et al. 2023, XTR, eq. 4 (arXiv:2304.01982).
    """
    if top_k < 1:
        raise InputError(f"top_k: expected a positive number of tokens, got {top_k}")
    queries, documents = _packed(queries, documents)
    maxima = token_maxima(queries, documents)
    with torch.no_grad():
        best = maxima.new_empty(len(maxima), 0)
        for block in _all_pairs(queries, documents):
            found = block.similarities(queries.values, documents.values).flatten(1)
            repeated = block.repeated.flatten()
            rows = best.new_full((len(maxima), found.shape[1]), -torch.inf)
            rows[block.query_rows] = found.to(best.dtype).masked_fill(repeated, -torch.inf)
            best = torch.cat([best, rows], dim=1)
            best = best.topk(min(top_k, best.shape[1]), dim=1).values
        least = best[:, -1:] if best.shape[1] else best.new_full((len(maxima), 1), -torch.inf)
        kept = (maxima >= least) & (documents.lengths > 0).to(maxima.device)
    lengths = queries.lengths.to(maxima.device)
    sums, counts = (
        torch.segment_reduce(each, "sum", lengths=lengths, axis=0, unsafe=True, initial=0)
        for each in (maxima * kept, kept.to(maxima.dtype))
    )
    scores = sums / counts.clamp(min=1)
    return scores if pairs is None else scores[pairs[0].to(scores.device), pairs[1].to(scores.device)]


def _streams(queries: Embeddings, documents: Embeddings) -> bool:
    """Tell whether a few query tokens on the host meet documents that nothing is learned from, as in a search."""
    learned = torch.is_grad_enabled() and (queries.values.requires_grad or documents.values.requires_grad)
    return not learned and documents.values.device.type == "cpu" and 0 < len(queries.values) <= FEW_QUERY_TOKENS


def _streamed(queries: Embeddings, documents: Embeddings) -> Tensor:
    """The maxima, from documents read once and in order: to sort and copy them would cost more than the product."""
    assert documents.offsets is not None
    exact = torch.promote_types(queries.values.dtype, torch.float32)
    offsets = documents.offsets.numpy()

    def read(first: int, last: int) -> Tensor:
        return documents.values[int(offsets[first]) : int(offsets[last])].detach().to(exact)

    found = torch.zeros(len(queries.values), len(documents), dtype=exact)
    for filled, best in streamed_maxima(queries.values.detach().to(exact), read, offsets):
        found[:, torch.from_numpy(filled)] = torch.from_numpy(best)
    return found


def streamed_maxima(
    queries: Tensor,
    read: Callable[[int, int], Tensor],
    offsets: NDArray[np.int64],
    scales: NDArray[Any] | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Similarity of every query token to the closest token of a document, for documents that are read in order.

    Nothing is padded, and no more than a block of documents is in memory: an index decodes them as they are asked for.

    Args:
        queries: Query tokens `(query tokens, dim)`, on the host.
        read: Tokens of the documents from number `first` to `last`, one after another `(tokens, dim)`, of the dtype of
            `queries`.
        offsets: Where each document starts, and the end `(documents + 1,)`.
        scales: Of every document token, where `read` gives vectors without it `(tokens,)`: a product with as many
            numbers as query tokens, instead of one with as many as dimensions.

    Yields:
        Numbers of some documents that have tokens `(n,)`, ascending, and the maxima `(query tokens, n)`.
    """
    most = min(max(_PRODUCTS_AT_ONCE // max(1, len(queries)), _FEWEST), _MOST)
    first, total = 0, len(offsets) - 1
    while first < total:
        last = int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1
        last = min(max(last, first + 1), total)
        if offsets[last] > offsets[first]:
            filled = np.flatnonzero(np.diff(offsets[first : last + 1])) + first
            # Query tokens by document tokens: maxima then run along memory (1.4 ms, the other way 20 ms).
            similar = (queries @ read(first, last).T).numpy()
            if scales is not None:
                similar *= scales[int(offsets[first]) : int(offsets[last])]
            yield filled, np.maximum.reduceat(similar, offsets[filled] - offsets[first], axis=1)
        first = last


def _packed(queries: Embeddings, documents: Embeddings) -> tuple[Embeddings, Embeddings]:
    queries, documents = queries.pack(), documents.pack()
    if queries.layout != "packed" or documents.layout != "packed":
        raise ShapeError(
            f"maxsim: expected token vectors (one matrix a text), got {queries.layout} {tuple(queries.values.shape)} "
            f"and {documents.layout} {tuple(documents.values.shape)} embeddings"
        )
    if queries.values.shape[-1] != documents.values.shape[-1]:
        raise ShapeError(
            f"maxsim: expected vectors of one dimension, got {queries.values.shape[-1]} and "
            f"{documents.values.shape[-1]}"
        )
    return queries, documents


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Some query tokens against some documents of about one length.

    Attributes:
        query_rows: Rows of the query tokens: a slice for all pairs; `(pairs, query tokens)` for named ones.
        document_rows: Rows of the documents' tokens `(documents or pairs, tokens)`; short ones repeat their last.
        repeated: Where they do `(documents or pairs, tokens)`.
        places: Where the maxima belong in the result: column numbers `(documents,)`, or rows `(real query tokens,)`.
        real: Which of a pair's query tokens are no filling `(pairs, query tokens)`; None for all pairs.
    """

    query_rows: Any
    document_rows: Tensor
    repeated: Tensor
    places: Tensor
    real: Tensor | None = None

    def similarities(self, queries: Tensor, documents: Tensor) -> Tensor:
        """`(query tokens, documents, tokens)`, or `(pairs, query tokens, tokens)`."""
        # A slice where the rows are consecutive, so that nothing is copied.
        flat = self.document_rows.reshape(-1)
        first, last = int(flat[0]), int(flat[-1])
        consecutive = last - first + 1 == len(flat) and bool((flat.diff() == 1).all())
        q, chosen = queries[self.query_rows], documents[slice(first, last + 1) if consecutive else flat]
        if self.real is None:
            return (q @ chosen.T).view(len(q), *self.document_rows.shape)
        return q @ chosen.view(*self.document_rows.shape, -1).transpose(1, 2)

    def put(self, into: Tensor, values: Tensor) -> None:
        """Write one value a query token and document into the result."""
        if self.real is None:
            into[self.query_rows, self.places] = values
        else:
            into[self.places] = values[self.real]


def _groups(lengths: Tensor, weight: int) -> Iterator[Tensor]:
    """Numbers of rows of similar length, longest first, those without tokens left out.

    Args:
        lengths: Tokens of every row `(rows,)`.
        weight: Similarities that one token takes, besides what `DOCUMENT_TOKENS` allow.
    """
    order = lengths.argsort(descending=True, stable=True)
    sizes: list[int] = lengths[order].tolist()
    start = 0
    while start < len(sizes) and sizes[start]:
        most = max(1, min(DOCUMENT_TOKENS, BLOCK // max(weight, 1)) // sizes[start])
        stop = start
        while stop < len(sizes) and stop - start < most and sizes[stop] >= max(SIMILAR_LENGTH * sizes[start], 1):
            stop += 1
        yield order[start:stop].sort().values
        start = stop


def _token_rows(rows: Embeddings, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the chosen texts' tokens `(texts, longest)`, and where the last one is repeated to fill up."""
    assert rows.offsets is not None
    lengths = rows.lengths[chosen]
    steps = torch.arange(int(lengths.max()))
    index = rows.offsets[chosen][:, None] + torch.minimum(steps, (lengths - 1).clamp(min=0)[:, None])
    return index, steps >= lengths[:, None]


def _all_pairs(queries: Embeddings, documents: Embeddings) -> Iterator[_Block]:
    total = len(queries.values)
    device = documents.values.device
    for chosen in _groups(documents.lengths, 1) if total else ():
        index, repeated = _token_rows(documents, chosen)
        step = max(1, BLOCK // index.numel())
        for start in range(0, total, step):
            rows = slice(start, min(start + step, total))
            yield _Block(rows, index, repeated.to(device), chosen.to(device))


def _named_pairs(queries: Embeddings, documents: Embeddings, pairs: Pairs) -> Iterator[_Block]:
    own, other = (each.cpu() for each in pairs)
    starts = F.pad(queries.lengths[own].cumsum(0), (1, 0))[:-1]
    device = documents.values.device
    widest = int(queries.lengths[own].max()) if len(own) else 0
    for chosen in _groups(documents.lengths[other].where(queries.lengths[own] > 0, 0), widest):
        document_rows, repeated = _token_rows(documents, other[chosen])
        query_rows, filling = _token_rows(queries, own[chosen])
        places = (starts[chosen][:, None] + torch.arange(query_rows.shape[1]))[~filling]
        yield _Block(query_rows, document_rows, repeated.to(device), places.to(device), (~filling).to(device))


class _Maxima(torch.autograd.Function):
    """Maxima over document tokens; the gradient goes to the winners alone."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, documents: Tensor, blocks: list[_Block], shape: tuple[int, ...]) -> Tensor:
        exact = torch.promote_types(queries.dtype, torch.float32)
        maxima = torch.zeros(shape, dtype=exact, device=documents.device)
        graph = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        winners = torch.full(shape, -1, dtype=torch.int32, device=documents.device) if graph else None
        # The host has no fast products in half precision.
        q, d = (x.to(exact) if x.device.type == "cpu" else x for x in (queries, documents))
        for block in blocks:
            found = block.similarities(q, d)
            best = _argmax(found)
            block.put(maxima, found.gather(-1, best).squeeze(-1).to(exact))
            if winners is not None:
                table = block.document_rows.to(best.device)
                table = table[None].expand(len(best), -1, -1) if block.real is None else table[:, None].expand_as(found)
                block.put(winners, table.gather(-1, best).squeeze(-1).int())
        if winners is not None:
            ctx.pairs = None if len(shape) == 2 else blocks
            ctx.save_for_backward(queries, documents, winners)
        return maxima

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        queries, documents, winners = ctx.saved_tensors
        weights = gradients[0].flatten()
        won = winners.flatten()
        if ctx.pairs is None:
            asking = torch.arange(len(queries), dtype=torch.int32, device=won.device)
            asking = asking.repeat_interleave(winners.shape[1])
        else:
            asking = torch.zeros_like(won)
            for block in ctx.pairs:
                asking[block.places] = block.query_rows.to(won.device).int()[block.real]
        real = won >= 0
        if not bool(real.all()):
            won, asking, weights = won[real], asking[real], weights[real]
        ordered = ctx.pairs is None
        return (
            _added(documents, won, asking, weights, len(queries), ordered) if ctx.needs_input_grad[0] else None,
            _added(queries, asking, won, weights, len(documents), False) if ctx.needs_input_grad[1] else None,
            None,
            None,
        )


def _argmax(similarities: Tensor) -> Tensor:
    """The first winner along the last axis, which is kept."""
    if similarities.device.type == "cpu" and similarities.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(similarities.numpy().argmax(-1))[..., None]
    return similarities.argmax(-1, keepdim=True)


def _added(values: Tensor, take: Tensor, put: Tensor, weights: Tensor, rows: int, ordered: bool) -> Tensor:
    """`out[put[i]] += weights[i] * values[take[i]]` for `rows` rows, without a matrix of the products.

    Args:
        values: `(n, dim)`.
        take: Rows of `values` `(terms,)`, int32.
        put: Rows of the result `(terms,)`, int32.
        weights: `(terms,)`, float32 at least.
        rows: Rows of the result.
        ordered: Whether `put` ascends.
    """
    if not ordered:
        order = put.argsort(stable=True)
        put, take, weights = put[order], take[order], weights[order]
    offsets = F.pad(torch.bincount(put, minlength=rows).cumsum(0), (1, 0))[:-1].to(take.dtype)
    if not len(take):
        return torch.zeros(rows, values.shape[1], dtype=values.dtype, device=values.device)
    added = F.embedding_bag(take, values.to(weights.dtype), offsets, mode="sum", per_sample_weights=weights)
    return added.to(values.dtype)


def _smooth(
    queries: Tensor, documents: Tensor, blocks: list[_Block], shape: tuple[int, ...], temperature: float
) -> Tensor:
    """The smooth maximum, block by block; backward computes a block's similarities again."""

    def soft(block: _Block) -> Callable[[Tensor, Tensor], Tensor]:
        def values(q: Tensor, d: Tensor) -> Tensor:
            scaled = block.similarities(q, d).float() / temperature
            repeated = block.repeated if block.real is None else block.repeated[:, None]
            return temperature * scaled.masked_fill(repeated, -torch.inf).logsumexp(-1)

        return values

    out = queries.new_zeros(shape, dtype=torch.float32)
    for block in blocks:
        made = checkpoint(soft(block), queries, documents, use_reentrant=False, preserve_rng_state=False)
        if block.real is None:
            rows = torch.arange(block.query_rows.start, block.query_rows.stop, device=out.device)[:, None]
            out = out.index_put((rows, block.places[None]), made)
        else:
            out = out.index_put((block.places,), made[block.real])
    return out
