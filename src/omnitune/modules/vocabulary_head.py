"""A masked-language head without its last product: `SpladePooling` does it, in blocks of the vocabulary.

In a `SparseEncoder` a backbone's forward stops before its last layer, the output embedding: a hook on that layer notes
the states it gets and lets none through, so the logits of all tokens are never made. Whether an architecture ends in
that layer is not assumed: when a model is made, a probe of three texts compares both ways, and what differs (scaled or
capped logits, another head) keeps the plain one.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.types import Embeddings

logger = logging.getLogger(__name__)

HEAD = "vocabulary_head"
"""Feature that takes the place of the logits."""

PROBES = ["one", "a page of words, and then some more of them", "three more words"]

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference of both ways, relative to the largest weight; half precision has 0.02."""


@dataclass(frozen=True, slots=True)
class VocabularyHead:
    """Inputs of the last layer of a masked-language head, in place of its logits.

    Attributes:
        hidden: Packed states of every text's tokens.
        weight: Of the last layer `(vocabulary, dim)`.
        bias: Of the last layer `(vocabulary,)`, or None.
        rows: For every row of the batch its text in `hidden`, or None where they are in order.
    """

    hidden: Embeddings
    weight: Tensor
    bias: Tensor | None
    rows: Tensor | None = None


@dataclass(slots=True)
class Captured:
    """States that the last layer was given: `(rows, tokens, dim)`, or `(1, tokens, dim)` of a packed row."""

    hidden: Tensor | None = None


def head_of(hidden: Tensor, layer: nn.Linear, mask: Tensor | None, packing: Any) -> VocabularyHead:
    """The head of a batch.

    Args:
        hidden: What the last layer was given.
        layer: That layer.
        mask: Of the padded batch `(rows, tokens)`, in host memory where it is there; None has no padding.
        packing: How a packed row lies, or None for a padded batch.
    """
    if packing is not None:
        lengths = torch.tensor(packing.lengths.tokens, dtype=torch.int64)
        packed = Embeddings(hidden[0], offsets=F.pad(lengths.cumsum(0), (1, 0)))
        return VocabularyHead(packed, layer.weight, layer.bias, packing.order.argsort())
    real = torch.ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask.cpu().bool()
    flat = hidden.flatten(0, 1)
    if not bool(real.all()):
        flat = flat[real.flatten().nonzero().flatten().to(flat.device)]
    packed = Embeddings(flat, offsets=F.pad(real.sum(dim=1).cumsum(0), (1, 0)))
    return VocabularyHead(packed, layer.weight, layer.bias)


_inside: ContextVar[bool] = ContextVar("inside", default=False)
_capturing: ContextVar[Captured | None] = ContextVar("capturing", default=None)


@contextmanager
def deferred(*, wanted: bool = True) -> Iterator[None]:
    """Within this context, backbones whose head may be left out leave it out."""
    token = _inside.set(wanted)
    try:
        yield
    finally:
        _inside.reset(token)


@contextmanager
def capturing(layer: nn.Linear | None) -> Iterator[Captured | None]:
    """Note what `layer` is given and let it do nothing; None where it is to work as always."""
    if layer is None or not _inside.get() or hasattr(layer.weight, "full_tensor"):
        yield None
        return
    captured = Captured()
    token = _capturing.set(captured)
    try:
        yield captured
    finally:
        _capturing.reset(token)


def last_layer(model: Any) -> nn.Linear | None:
    """The output embedding of a masked-language model where it is a plain linear layer, else None."""
    layer = model.get_output_embeddings()
    return layer if type(layer) is nn.Linear else None


def defer(model: Any) -> bool:
    """Let the last layer of a masked-language model note its states when it is asked to; whether that can be."""
    layer = last_layer(model)
    if layer is not None and not getattr(layer, "takes_states", False):
        layer.register_forward_pre_hook(_take_states)
        # Beside its hook, so that a copy of the layer has both.
        layer.takes_states = True  # type: ignore[assignment]
    return layer is not None


def _take_states(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Note the input of the last layer and hand on none of its tokens."""
    del layer
    captured = _capturing.get()
    if captured is None:
        return None
    captured.hidden = given[0]
    return (given[0][..., :0, :],)


def agrees(made: Tensor, plain: Tensor) -> bool:
    """Tell whether both ways give the same weights, up to rounding."""
    if made.shape != plain.shape:
        return False
    scale = float(plain.abs().max()) or 1.0
    return float((made - plain).abs().max()) <= TOLERANCE.get(plain.dtype, 0.02) * scale
