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

    def modules(self) -> list[nn.Module]:
        """Modules that follow the backbone in a checkpoint: standard ones, and `TokenWeights` if there are weights."""
        dim, hidden = self.projection.shape
        dense = Dense(
            hidden, dim, bias=False, activation_function=None, init_weight=self.projection, module_input_name=TOKENS
        )
        made: list[nn.Module] = [Normalize(TOKENS), dense, MultiVectorMask(), Normalize(TOKENS)]
        return made if self.weights is None else [*made, self.weights]

    def on(self, encoder: MultiVectorEncoder) -> MultiVectorEncoder:
        """A late-interaction encoder of `encoder`'s backbone and this head; it can be saved and loaded as any other."""
        return MultiVectorEncoder(
            modules=[encoder[0], *self.modules()],
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
        InputError: A query has no positive, or no training query is left.

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
    held = {*validation}
    rows = [row for row in range(len(queries)) if row not in held]
    listed = {row: _candidates(positives[row], hard_negatives[row], negatives) for row in range(len(queries))}
    short = {row: _shortlist(queries, pages, row, listed[row]) for row in listed}

    def scores(row: int, chosen: Tensor) -> Tensor:
        """Scores of a query's candidates `(candidates,)` by `chosen` tokens `(candidates, query tokens)`."""
        own = F.normalize(_tokens(queries, row) @ projection.T, dim=-1)
        found = F.normalize(pages.values[chosen].float() @ projection.T, dim=-1)
        best = torch.einsum("cqd,qd->cq", found, own)
        weigh = best.new_ones(len(own)) if weights is None else weights.weights(own)
        return (best @ weigh) / weigh.sum()

    @torch.no_grad()
    def winners() -> dict[int, Tensor]:
        """For every query, the tokens that win under the projection as it is now."""
        unique, inverse = torch.unique(torch.cat([s.flatten() for s in short.values()]), return_inverse=True)
        projected = F.normalize(pages.values[unique].float() @ projection.T, dim=-1)
        found, start = {}, 0
        for row, tokens in short.items():
            places = inverse[start : start + tokens.numel()].view_as(tokens)
            start += tokens.numel()
            own = F.normalize(_tokens(queries, row) @ projection.T, dim=-1)
            near = torch.einsum("cqkd,qd->cqk", projected[places], own).argmax(-1, keepdim=True)
            found[row] = tokens.gather(-1, near).squeeze(-1)
        return found

    @torch.no_grad()
    def judged(won: dict[int, Tensor]) -> float:
        """Mean reciprocal rank of the positive among the validation queries' candidates."""
        ranks = [int((s > s[0]).sum()) + 1 for s in (scores(row, won[row]) for row in validation)]
        return sum(1 / rank for rank in ranks) / len(ranks)

    head = LateHead(projection.detach().clone(), copy.deepcopy(weights), SCALE)
    won = winners()
    best, since = (judged(won) if validation else -1.0), 0
    history = [best] if validation else []
    order = torch.Generator().manual_seed(seed)
    with runtime.progress_bar(label="Head", total=epochs * len(rows), show=show_progress_bar, unit="query") as bar:
        for epoch in range(1, epochs + 1):
            shuffled = [rows[i] for i in torch.randperm(len(rows), generator=order).tolist()]
            for start in range(0, len(shuffled), batch_size):
                batch = shuffled[start : start + batch_size]
                losses = [-F.log_softmax(scores(row, won[row]) * scale, dim=0)[0] for row in batch]
                optimizer.zero_grad()
                torch.autograd.backward(torch.stack(losses).mean())
                optimizer.step()
                bar.update(len(batch))
            won = winners()
            result = judged(won) if validation else float(epoch)
            history += [result] if validation else []
            since = 0 if result > best else since + 1
            if result > best:
                best = result
                head = LateHead(projection.detach().clone(), copy.deepcopy(weights), float(scale.detach()), [], epoch)
            if since >= patience:
                break
    head.history = history
    logger.info("late head: epoch %d of %d, validation %s", head.best_epoch, len(history) - 1, history)
    return head


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


def _candidates(positive: Sequence[int], wrong: Tensor | Sequence[int], count: int) -> list[int]:
    """A positive, then hard negatives."""
    known = {int(page) for page in positive}
    rows = wrong.tolist() if isinstance(wrong, Tensor) else list(wrong)
    chosen = [int(page) for page in dict.fromkeys(rows) if int(page) >= 0 and int(page) not in known]
    return [int(positive[0]), *chosen[:count]]


def _tokens(rows: Embeddings, number: int) -> Tensor:
    assert rows.offsets is not None
    start, stop = rows.offsets[number : number + 2].tolist()
    return rows.values[start:stop].float()


def _shortlist(queries: Embeddings, pages: Embeddings, row: int, chosen: Sequence[int]) -> Tensor:
    """The tokens of every candidate that are nearest to each query token `(candidates, query tokens, SHORTLIST)`."""
    assert pages.offsets is not None
    own, made = _tokens(queries, row), []
    for page in chosen:
        near = own @ _tokens(pages, page).T
        best = near.topk(min(SHORTLIST, near.shape[1]), dim=1).indices
        if best.shape[1] < SHORTLIST:  # a page of few tokens: its best one again
            best = torch.cat([best, best[:, :1].expand(-1, SHORTLIST - best.shape[1])], dim=1)
        made.append(best + int(pages.offsets[page]))
    return torch.stack(made)
