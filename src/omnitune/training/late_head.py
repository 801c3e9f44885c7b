"""A head for late interaction trained alone, on token vectors that a frozen backbone made once.

What is trained: a projection, which begins as the identity (or as the principal axes, where it has fewer dimensions), a
weight a query token, and a temperature. Only tokens that can win cost anything: of every candidate page the tokens
nearest to each query token (`SHORTLIST`) are kept before training; at the start of an epoch the winner among them is
found anew, and the steps of the epoch touch winners alone: a page of 700 tokens costs a query of 12 tokens 12 vectors.

Source: Khattab and Zaharia 2020 (arXiv:2004.12832) for the scores; freezing all below and the shortlist are ours.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune import runtime
from omnitune.errors import InputError, ShapeError
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.modules import Dense, MultiVectorMask, Normalize
from omnitune.modules.backbones import TOKENS
from omnitune.modules.token_weights import TokenWeights
from omnitune.types import Embeddings

logger = logging.getLogger(__name__)

SHORTLIST = 8
"""Tokens of a page, nearest to a query token under the identity, among which the winner is looked for."""

SCALE = 30.0
"""Inverse temperature at the start: scores are weighted means of cosines."""

_NO_CANDIDATE = -1e4
"""Score where a query has fewer candidates than others; finite, because the temperature's gradient multiplies it."""

_RATES = {"projection": 3e-4, "weights": 3e-2, "scale": 0.1}


@dataclass(slots=True)
class LateHead:
    """A trained head.

    Attributes:
        projection: `(dim, hidden)`.
        weights: Weight of every query token, or None where none was learned.
        scale: Inverse temperature at the end.
        history: Reciprocal rank of the first positive among a validation query's candidates: before training, then
            after each epoch; empty without validation.
        best_epoch: Epoch whose weights these are; 0 is the identity.
    """

    projection: Tensor
    weights: TokenWeights | None
    scale: float
    history: list[float] = field(default_factory=list)
    best_epoch: int = 0

    def on(self, encoder: MultiVectorEncoder, *, skiplist_words: Sequence[str] = ()) -> MultiVectorEncoder:
        """A late-interaction encoder of `encoder`'s backbone and this head; it can be saved and loaded as any other.

        Args:
            encoder: Its first module makes the token vectors.
            skiplist_words: Tokens of documents that had no vectors in training.
        """
        dim, hidden = self.projection.shape
        dense = Dense(
            hidden, dim, bias=False, activation_function=None, init_weight=self.projection, module_input_name=TOKENS
        )
        mask = MultiVectorMask(list(skiplist_words))
        weights = [] if self.weights is None else [self.weights]
        return MultiVectorEncoder(
            modules=[encoder[0], Normalize(TOKENS), dense, mask, Normalize(TOKENS), *weights],
            prompts=dict(encoder.prompts),
            default_prompt_name=encoder.default_prompt_name,
            similarity_fn_name="meanmaxsim",
            device=str(encoder.device),
        )

    @torch.no_grad()
    def transform(self, vectors: Embeddings, task: str = "document") -> Embeddings:
        """Transform token vectors that are there into what the encoder would give."""
        projected = F.normalize(vectors.values.float() @ self.projection.T, dim=-1)
        if self.weights is None or task not in self.weights.tasks or vectors.offsets is None:
            return vectors.with_values(projected)
        weights = self.weights.weights(projected)
        lengths = vectors.lengths.to(weights.device)
        means = torch.segment_reduce(weights, "mean", lengths=lengths, axis=0, initial=0)
        return vectors.with_values(projected * (weights / means.repeat_interleave(lengths))[:, None])


def train_head(
    queries: Embeddings,
    pages: Embeddings,
    positives: Sequence[Sequence[int]],
    hard_negatives: Tensor | Sequence[Sequence[int]],
    *,
    validation: Sequence[int] = (),
    dim: int | None = None,
    learn_weights: bool = True,
    epochs: int = 6,
    patience: int = 2,
    batch_size: int = 16,
    negatives: int = 8,
    rate: float = 1.0,
    seed: int = 0,
    show_progress_bar: bool | None = None,
) -> LateHead:
    """Train a projection, a weight a query token and a temperature; the backbone is not run.

    Args:
        queries: Unit token vectors of training queries, packed `(sum of tokens, hidden)`; half precision will do.
        pages: Likewise of pages, windows of one page joined.
        positives: Rows of the relevant pages of every query, at least one.
        hard_negatives: Rows of pages that are near and wrong, best first, for every query; relevant ones among them,
            and negative numbers, are left out.
        validation: Rows of queries that are not trained on but decide when to stop.
        dim: Dimensions of the projection; None keeps all.
        learn_weights: Whether query tokens get weights.
        epochs: Passes over the training queries, at most.
        patience: Epochs without a better validation result after which training stops.
        batch_size: Queries a step.
        negatives: Hard negatives a query.
        rate: Multiplies all learning rates.
        seed: Of the order of queries.
        show_progress_bar: None shows it on a terminal.

    Returns:
        The head of the best epoch by validation; without validation, of the last.

    Raises:
        ShapeError: Queries, positives and negatives are not equally many, or vectors differ in dimension.
        InputError: A query has no token or no positive with tokens, or no training query is left.

    Example:
        >>> head = train_head(queries, pages, [[0], [1]], [[1], [0]])  # doctest: +SKIP
        >>> head.on(MultiVectorEncoder.from_dense("embedded")).save_pretrained("late")  # doctest: +SKIP
    """
    queries, pages = queries.pack(), pages.pack()
    _check(queries, pages, positives, hard_negatives, validation)
    device, hidden = pages.values.device, pages.values.shape[1]
    torch.manual_seed(seed)
    projection = nn.Parameter(_start(pages, hidden if dim is None else dim))
    weights = TokenWeights(projection.shape[0]).to(device) if learn_weights else None
    scale = nn.Parameter(torch.tensor(SCALE, device=device))
    groups: list[dict[str, object]] = [
        {"params": [projection], "lr": _RATES["projection"] * rate},
        {"params": [scale], "lr": _RATES["scale"] * rate},
    ]
    if weights is not None:
        groups.append({"params": list(weights.parameters()), "lr": _RATES["weights"] * rate})
    optimizer = torch.optim.Adam(groups)
    held = torch.tensor([*validation], dtype=torch.int64)
    rows = torch.arange(len(queries))[~torch.isin(torch.arange(len(queries)), held)]
    listed = _candidates(pages, positives, hard_negatives, negatives)
    real = (listed >= 0).to(device)
    short = _shortlists(queries, pages, listed)

    def scores(some: Tensor, won: Tensor) -> Tensor:
        """Scores of some queries' candidates `(queries, candidates)` by the tokens that won."""
        tokens, row_of = (each.to(device) for each in _tokens(queries, some))
        own = F.normalize(queries.values[tokens].float() @ projection.T, dim=-1)
        similar: Tensor = _Cosines.apply(own, projection, pages.values[won[tokens]].float())
        weigh = own.new_ones(len(own)) if weights is None else weights.weights(own)
        sums = own.new_zeros(len(some), similar.shape[1]).index_add(0, row_of, similar * weigh[:, None])
        scores = sums / own.new_zeros(len(some)).index_add(0, row_of, weigh)[:, None]
        return scores.masked_fill(~real[some], _NO_CANDIDATE)

    @torch.no_grad()
    def winners(*, identity: bool = False) -> Tensor:
        """For every query token and candidate, the token that wins under the projection as it is now."""
        own = F.normalize(queries.values.float() @ projection.T, dim=-1)
        made = torch.zeros(len(own), listed.shape[1], dtype=torch.int64, device=device)
        for one in short:
            best = one.near[:, :1]  # shortlists are sorted by the identity
            if not identity:
                found = pages.values[one.tokens].float() @ projection.T
                similar = own[one.asking] @ found.T / found.norm(dim=1).clamp_min(1e-12)
                best = one.near.gather(1, similar.gather(1, one.near).argmax(dim=1, keepdim=True))
            made[one.asking, one.candidates] = one.tokens[best.squeeze(1)]
        return made

    @torch.no_grad()
    def judged(won: Tensor) -> float:
        """Mean reciprocal rank of the positive among the validation queries' candidates."""
        found = torch.cat([scores(some, won) for some in torch.split(held, 256)])
        return float((1 / ((found > found[:, :1]).sum(dim=1) + 1)).mean())

    head = LateHead(projection.detach().clone(), copy.deepcopy(weights), SCALE)
    won = winners(identity=projection.shape[0] == hidden)
    best, since = (judged(won) if len(held) else -1.0), 0
    history = [best] if len(held) else []
    order = torch.Generator().manual_seed(seed)
    with runtime.progress_bar(label="Head", total=epochs * len(rows), show=show_progress_bar, unit="row") as bar:
        for epoch in range(1, epochs + 1):
            for batch in torch.split(rows[torch.randperm(len(rows), generator=order)], batch_size):
                loss = -F.log_softmax(scores(batch, won) * scale, dim=1)[:, 0].mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                bar.update(len(batch))
            if len(held) or epoch < epochs:
                won = winners()
            result = judged(won) if len(held) else float(epoch)
            history += [result] if len(held) else []
            since = 0 if result > best else since + 1
            if result > best:
                best = result
                head = LateHead(projection.detach().clone(), copy.deepcopy(weights), float(scale.detach()), [], epoch)
            if since >= patience:
                break
    head.history = history
    logger.info("late head: epoch %d of %d, validation %s", head.best_epoch, len(history) - 1, history)
    return head


class _Cosines(torch.autograd.Function):
    """Cosines of query tokens with what a projection makes of their candidates' tokens.

    Two products of matrices and a few reads of the vectors; autograd's own way normalizes every projected vector and
    its gradient, which costs as much again as the products.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, projection: Tensor, vectors: Tensor) -> Tensor:
        """Cosines `(tokens, candidates)` of unit vectors `(tokens, dim)` and `(tokens, candidates, hidden)` vectors."""
        projected = vectors @ projection.T
        scale = 1 / torch.linalg.vector_norm(projected, dim=-1).clamp_min(1e-12)
        cosines: Tensor = torch.bmm(projected, own[..., None])[..., 0] * scale
        ctx.save_for_backward(own, vectors, projected, scale, cosines)
        return cosines

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """With y = P x and c = (q . y) / |y|: dc/dy = q / |y| - c y / |y|^2, and dP sums the dy of all x, each by x."""
        own, vectors, projected, scale, cosines = ctx.saved_tensors
        along, shrinking = gradients[0] * scale, gradients[0] * cosines * scale**2
        of_own = torch.bmm(along[:, None], projected)[:, 0]
        of_projection = own.T @ torch.bmm(along[:, None], vectors)[:, 0]
        flat = (vectors * shrinking[..., None]).flatten(0, 1)
        of_projection.addmm_(projected.flatten(0, 1).T, flat, alpha=-1)
        return of_own, of_projection, None


def _check(
    queries: Embeddings,
    pages: Embeddings,
    positives: Sequence[Sequence[int]],
    hard_negatives: Tensor | Sequence[Sequence[int]],
    validation: Sequence[int],
) -> None:
    if not len(queries) == len(positives) == len(hard_negatives):
        raise ShapeError(
            f"queries, positives, hard_negatives: expected equally many, got {len(queries)}, {len(positives)} and "
            f"{len(hard_negatives)}"
        )
    if queries.values.shape[-1] != pages.values.shape[-1]:
        raise ShapeError(
            f"pages: expected vectors of {queries.values.shape[-1]} dimensions, as the queries', got "
            f"{pages.values.shape[-1]}"
        )
    without = next((row for row, found in enumerate(positives) if not len(found)), None)
    if without is not None:
        raise InputError(f"positives: expected at least one page for every query, got none for query {without}")
    if bool((queries.lengths == 0).any()):
        row = int((queries.lengths == 0).nonzero()[0])
        raise InputError(f"queries: expected token vectors of every query, got none for query {row}")
    empty = next((row for row, found in enumerate(positives) if not pages.lengths[int(found[0])]), None)
    if empty is not None:
        raise InputError(f"positives: expected pages with token vectors, got one without for query {empty}")
    if len({*validation}) >= len(queries):
        raise InputError("validation: expected fewer queries than there are, or none is left to train on")


def _start(pages: Embeddings, dim: int, sample: int = 20_000) -> Tensor:
    """The identity; or the axes `(dim, hidden)` on which the most of the token vectors lies.

    Raises:
        InputError: `dim` is more than the vectors have.
    """
    hidden = pages.values.shape[1]
    if not 0 < dim <= hidden:
        raise InputError(f"dim: expected from 1 to the {hidden} dimensions of the vectors, got {dim}")
    if dim == hidden:
        return torch.eye(hidden, device=pages.values.device)
    step = max(1, len(pages.values) // sample)
    some = pages.values[::step].float()
    _, vectors = torch.linalg.eigh(some.T @ some)
    axes: Tensor = vectors[:, -dim:].T.flip(0).contiguous()
    return axes


def _candidates(
    pages: Embeddings, positives: Sequence[Sequence[int]], wrong: Tensor | Sequence[Sequence[int]], count: int
) -> Tensor:
    """Rows of a positive, then of hard negatives that have tokens `(queries, 1 + count)`; -1 where there are fewer."""
    filled = pages.lengths > 0
    listed = torch.full((len(positives), 1 + count), -1)
    for row, (known, near) in enumerate(zip(positives, wrong, strict=True)):
        right = {int(page) for page in known}
        distinct = dict.fromkeys(int(page) for page in near)
        chosen = [page for page in distinct if page >= 0 and page not in right and filled[page]][:count]
        listed[row, : 1 + len(chosen)] = torch.tensor([int(known[0]), *chosen])
    return listed


def _tokens(texts: Embeddings, some: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the tokens of some texts, one after another `(tokens,)`, and which of them each is of."""
    assert texts.offsets is not None
    lengths = texts.lengths[some]
    row_of = torch.arange(len(some)).repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return torch.arange(len(row_of)) + (texts.offsets[some] - before)[row_of], row_of


@dataclass(frozen=True, slots=True)
class _Shortlist:
    """Tokens of a page that can win, for every query token that has the page among its candidates.

    Attributes:
        tokens: All of them `(tokens,)`, ascending.
        asking: The query tokens `(asking,)`.
        candidates: Which of its candidates the page is to each `(asking,)`.
        near: Of each the nearest, best first, as places in `tokens` `(asking, SHORTLIST)`.
    """

    tokens: Tensor
    asking: Tensor
    candidates: Tensor
    near: Tensor


def _shortlists(queries: Embeddings, pages: Embeddings, listed: Tensor) -> list[_Shortlist]:
    """The tokens of every candidate page nearest to each query token; a page of several queries is read once."""
    assert pages.offsets is not None
    made, device = [], pages.values.device
    order = listed.flatten().argsort(stable=True)
    found, counts = torch.unique_consecutive(listed.flatten()[order], return_counts=True)
    for page, pairs in zip(found.tolist(), torch.split(order, counts.tolist()), strict=True):
        if page < 0:
            continue
        asking, pair_of = (each.to(device) for each in _tokens(queries, pairs // listed.shape[1]))
        start, stop = pages.offsets[page : page + 2].tolist()
        similar = queries.values[asking].float() @ pages.values[start:stop].float().T
        best = similar.topk(min(SHORTLIST, stop - start), dim=1).indices + start
        tokens, near = best.unique(return_inverse=True)
        again = torch.arange(SHORTLIST).clamp(max=best.shape[1] - 1)  # of a page of few tokens the last one again
        candidates = (pairs % listed.shape[1]).to(device)[pair_of]
        made.append(_Shortlist(tokens, asking, candidates, near[:, again]))
    return made
