"""SPLADE's head: hidden states of tokens to one weight a word, without logits of every token over the vocabulary.

`log(1 + relu(x))` and the addition of a word's bias keep the order of logits, so the maximum over a text's tokens can
be taken first: it is found in blocks of the vocabulary, and no more than `ELEMENTS` logits exist at a time. Texts are
packed, so padding costs nothing.

Backward touches the winners alone: of every text and word above zero the one token with the largest logit. Winners are
noted in forward, `(texts, vocabulary)` int16, because finding them again costs the product once more; the derivative
follows from the output itself. A gradient cache hands what its first pass noted to its replay (`HeadMemory`), which
then needs no product with the vocabulary in forward at all.

A sum over tokens does not commute with the logarithm: its blocks are computed again in backward.

Source: Formal et al. 2021 (arXiv:2109.10086) for the weights; the order of the operations is ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from omnitune.errors import ShapeError
from omnitune.types import Embeddings

MEMORY = "head_memory"
"""Feature that carries a `HeadMemory` to the head."""

ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Logits that exist at a time: 8 MB in float32 on the host, where a block then stays in the processor's cache."""

TOKENS = {"cpu": 1024, "cuda": 1 << 14}
"""Tokens of a group of texts; a longer text is a group of its own."""

SIMILAR_LENGTH = 0.8
"""Texts of a group have at least this share of the longest one's tokens; the others repeat their last token."""

DENSE_ADVANTAGE = 50
"""How much faster a product of matrices does a multiplication than additions to single rows (one core: 29 against 0.5
billion a second at 128 dimensions); with more entries than that backward multiplies matrices."""

_SMALLEST_BLOCK = 64

ENTRIES_AT_ONCE = 1 << 22
"""Numbers of the rows that are added to at a time, 16 MB in float32."""


@dataclass(slots=True)
class HeadMemory:
    """Results of a pass without a graph, for the replay with one.

    Attributes:
        values: Output of the head `(texts, vocabulary)`.
        winners: Number in its text of the token that won `(texts, vocabulary)`, int16 or int32.
    """

    values: Tensor | None = None
    winners: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """Texts of about one length: their numbers `(texts,)`, and the packed token at every place `(texts, longest)`."""

    texts: Tensor
    tokens: Tensor
    real: Tensor


def splade_head(
    hidden: Embeddings,
    weight: Tensor,
    bias: Tensor | None,
    *,
    pooling: Literal["max", "sum"] = "max",
    twice: bool = False,
    memory: HeadMemory | None = None,
) -> Tensor:
    """Weights of the vocabulary out of the hidden states before a masked-language head's last layer.

    Args:
        hidden: Packed hidden states `(tokens, dim)` of all texts.
        weight: Of the last layer `(vocabulary, dim)`.
        bias: Of the last layer `(vocabulary,)`, or None.
        pooling: Maximum or sum over a text's tokens.
        twice: Take `log(1 + x)` a second time.
        memory: Filled where gradients are off; where they are on and it is filled, it takes the place of the product.

    Returns:
        `(texts, vocabulary)`, none below 0; a text without tokens has zeros.

    Raises:
        ShapeError: `hidden` is not packed, or of another dimension than `weight`.

    Example:
        >>> texts = Embeddings.packed([torch.tensor([[1.0, 0.0], [0.0, 3.0]])])
        >>> splade_head(texts, torch.eye(2), None)
        tensor([[0.6931, 1.3863]])
    """
    if hidden.layout != "packed" or hidden.values.shape[1] != weight.shape[1]:
        raise ShapeError(
            f"hidden: expected packed states of the head's dimension {weight.shape[1]}, got {hidden.layout} ones of "
            f"shape {tuple(hidden.values.shape)}"
        )
    device = hidden.values.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    settings = _Settings(hidden.lengths.tolist(), half, twice)
    with torch.autocast(device, enabled=False):
        if pooling == "sum":
            made: Tensor = _Sum.apply(hidden.values, weight, bias, settings)
        else:
            made = _Max.apply(hidden.values, weight, bias, settings, memory, torch.is_grad_enabled())
    return made


@dataclass(frozen=True, slots=True)
class _Settings:
    """Tokens of every text, the number format of products under autocast, and whether to take the logarithm twice."""

    lengths: Sequence[int]
    half: torch.dtype | None
    twice: bool

    def groups(self, device: torch.device) -> Iterator[_Group]:
        """Yield texts with tokens, longest first, those of about one length together."""
        most = TOKENS["cpu" if device.type == "cpu" else "cuda"]
        lengths = torch.tensor(self.lengths, dtype=torch.int64)
        starts = lengths.cumsum(0) - lengths
        order = lengths.argsort(descending=True, stable=True).tolist()
        order = [text for text in order if self.lengths[text]]
        begin = 0
        while begin < len(order):
            longest = self.lengths[order[begin]]
            end = begin + 1
            while (
                end < len(order)
                and self.lengths[order[end]] >= SIMILAR_LENGTH * longest
                and (end + 1 - begin) * longest <= most
            ):
                end += 1
            texts = torch.tensor(order[begin:end])
            places, own = torch.arange(longest), lengths[texts][:, None]
            tokens = starts[texts][:, None] + torch.minimum(places, own - 1)
            yield _Group(texts.to(device), tokens.to(device), (places < own).to(device))
            begin = end

    def starts(self, device: torch.device) -> Tensor:
        """First packed token of every text `(texts,)`."""
        lengths = torch.tensor(self.lengths, dtype=torch.int64)
        return (lengths.cumsum(0) - lengths).to(device)

    def activated(self, logits: Tensor) -> Tensor:
        """The weight of a logit; works in place."""
        weights = logits.relu_().log1p_()
        return weights.log1p_() if self.twice else weights

    def slope(self, weights: Tensor) -> Tensor:
        """The derivative of a weight by its logit, as far as it is above zero, from the weight itself."""
        # y = log(1 + x) has the derivative 1 / (1 + x) = exp(-y); taken twice, u = exp(y) - 1 is the inner one.
        return torch.exp(-(weights + torch.expm1(weights)) if self.twice else -weights)


def _blocks(rows: int, vocabulary: int, device: torch.device) -> Iterator[slice]:
    """Yield the vocabulary in blocks of at most `ELEMENTS` logits of `rows` tokens."""
    size = max(ELEMENTS["cpu" if device.type == "cpu" else "cuda"] // max(rows, 1), _SMALLEST_BLOCK)
    for start in range(0, vocabulary, size):
        yield slice(start, min(start + size, vocabulary))


class _Max(torch.autograd.Function):
    """Maximum over tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        settings: _Settings,
        memory: HeadMemory | None,
        learns: bool,
    ) -> Tensor:
        values, winners = (memory.values, memory.winners) if learns and memory is not None else (None, None)
        if values is None:
            values, winners = _pooled(hidden, weight, bias, settings, winners=learns or memory is not None)
        if not learns and memory is not None:
            memory.values, memory.winners = values, winners
        if learns:
            ctx.settings = settings
            ctx.save_for_backward(hidden, weight, values, winners)
            ctx.biased = bias is not None
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, values, winners = ctx.saved_tensors
        slopes = torch.where(values > 0, gradients[0] * ctx.settings.slope(values), 0)
        of_bias = slopes.sum(dim=0).to(weight.dtype) if ctx.biased and ctx.needs_input_grad[2] else None
        starts = ctx.settings.starts(hidden.device)[:, None]
        wanted = ctx.needs_input_grad[:2]
        of_hidden = torch.zeros_like(hidden, dtype=torch.float32 if hidden.element_size() < 4 else hidden.dtype)
        of_weight = torch.zeros_like(weight, dtype=torch.float32 if weight.element_size() < 4 else weight.dtype)
        if int(slopes.count_nonzero()) * DENSE_ADVANTAGE > hidden.shape[0] * weight.shape[0]:
            # By products with a block's slopes, laid out over all tokens.
            states = hidden.to(of_hidden.dtype)
            for block in _blocks(hidden.shape[0], weight.shape[0], hidden.device):
                spread = torch.zeros(
                    hidden.shape[0], block.stop - block.start, dtype=states.dtype, device=hidden.device
                )
                spread.scatter_(0, winners[:, block] + starts, slopes[:, block].to(states.dtype))
                if wanted[0]:
                    of_hidden.addmm_(spread, weight[block].to(states.dtype))
                if wanted[1]:
                    of_weight[block] = spread.T @ states
        else:
            # Entry by entry: only those above zero cost anything.
            texts, words = slopes.nonzero(as_tuple=True)
            size = max(ENTRIES_AT_ONCE // hidden.shape[1], 1)
            for text, word in zip(torch.split(texts, size), torch.split(words, size), strict=True):
                tokens = winners[text, word] + starts[text, 0]
                slope = slopes[text, word].to(of_hidden.dtype)[:, None]
                if wanted[0]:
                    of_hidden.index_add_(0, tokens, slope * weight[word].to(of_hidden.dtype))
                if wanted[1]:
                    of_weight.index_add_(0, word, (slope * hidden[tokens]).to(of_weight.dtype))
        return (
            of_hidden.to(hidden.dtype) if wanted[0] else None,
            of_weight.to(weight.dtype) if wanted[1] else None,
            of_bias,
            None,
            None,
            None,
        )


def _pooled(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings, *, winners: bool
) -> tuple[Tensor, Tensor | None]:
    """Weights of every text, and the tokens that won where they are asked for."""
    device, texts, vocabulary = hidden.device, len(settings.lengths), weight.shape[0]
    dtype = hidden.dtype if settings.half is None else torch.float32
    values = torch.zeros(texts, vocabulary, dtype=dtype, device=device)
    short = max(settings.lengths, default=0) < 1 << 15
    won = (
        torch.zeros(texts, vocabulary, dtype=torch.int16 if short else torch.int32, device=device) if winners else None
    )
    product = settings.half or hidden.dtype
    for group in settings.groups(device):
        count, longest = group.tokens.shape
        states = hidden[group.tokens.flatten()].to(product)
        # First places count most, so that of equal logits the first wins, as torch has it.
        # Half precision counts no tokens beyond 256, so there they are whole numbers.
        counted = product if won is None or product.itemsize > 2 else won.dtype
        places = torch.arange(longest, 0, -1, dtype=counted, device=device)[:, None]
        last = group.real.sum(dim=1, keepdim=True) - 1
        for block in _blocks(len(states), vocabulary, device):
            logits = (states @ weight[block].to(product).T).view(count, longest, -1)
            best = logits.amax(dim=1)
            if won is not None:
                first = torch.where(logits == best[:, None], places, 0).amax(dim=1)
                # A copy of the last token, which pads, may come out larger by rounding.
                won[group.texts, block] = (longest - first).to(won.dtype).minimum(last.to(won.dtype))
            best = best.to(dtype)
            values[group.texts, block] = settings.activated(best if bias is None else best + bias[block])
    return values, won


class _Sum(torch.autograd.Function):
    """Sum over tokens; every block is computed again in backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.settings = settings
        dtype = hidden.dtype if settings.half is None else torch.float32
        values = torch.zeros(len(settings.lengths), weight.shape[0], dtype=dtype, device=hidden.device)
        for group, _, block, logits in _sum_blocks(hidden, weight, bias, settings):
            weights = settings.activated(logits).masked_fill_(~group.real[..., None], 0)
            values[group.texts, block] = weights.sum(dim=1).to(dtype)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        exact = torch.float32 if hidden.element_size() < 4 else hidden.dtype
        of_hidden, of_weight = torch.zeros_like(hidden, dtype=exact), torch.zeros_like(weight, dtype=exact)
        of_bias = None if bias is None else torch.zeros_like(bias, dtype=exact)
        for group, states, block, logits in _sum_blocks(hidden, weight, bias, ctx.settings):
            above = (logits > 0) & group.real[..., None]
            slopes = ctx.settings.slope(ctx.settings.activated(logits)).to(exact)
            slopes = torch.where(above, slopes * gradients[0][group.texts, None, block], 0)
            if of_bias is not None:
                of_bias[block] += slopes.sum(dim=(0, 1))
            flat = slopes.flatten(0, 1)
            of_weight[block] += flat.T @ states.to(exact)
            of_hidden.index_add_(0, group.tokens.flatten(), flat @ weight[block].to(exact))
        return (
            of_hidden.to(hidden.dtype),
            of_weight.to(weight.dtype),
            None if of_bias is None else of_bias.to(weight.dtype),
            None,
        )


def _sum_blocks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings
) -> Iterator[tuple[_Group, Tensor, slice, Tensor]]:
    """Yield every group of texts, its states, a block of the vocabulary, and the logits `(texts, longest, block)`."""
    product = settings.half or hidden.dtype
    for group in settings.groups(hidden.device):
        states = hidden[group.tokens.flatten()].to(product)
        for block in _blocks(len(states), weight.shape[0], hidden.device):
            logits = states @ weight[block].to(product).T
            logits = logits if bias is None else logits + bias[block].to(product)
            yield group, states, block, logits.view(*group.tokens.shape, -1)
