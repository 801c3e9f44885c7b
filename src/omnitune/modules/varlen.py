"""Attention within the items of one packed row: tokens of all items end to end, without padding.

An attention function and a mask function under the name `VARLEN`, for transformers' tables of both. On CUDA in half
precision it is torch's variable-length flash kernel; elsewhere the SDPA of every run of items of equal length, which
needs no mask and computes what each item alone would give. A call that is not packed is transformers' own SDPA.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

VARLEN = "omnitune_varlen"
"""Name of this attention: `model_kwargs={"attn_implementation": VARLEN}` asks for it."""

UNKNOWN = ("softcap", "s_aux", "position_bias")
"""What some architectures want of attention and this one does not do: capped scores, sinks, relative positions."""

_packed: ContextVar[bool] = ContextVar("packed", default=False)


class UnpackableError(ValueError):
    """An architecture wants of attention what the packed form does not do; the message says what."""


@dataclass(frozen=True)
class Lengths:
    """Lengths of the items of a packed row, in the order in which they lie.

    Attributes:
        tokens: Tokens of every item; an item may have none.
        cumulative: Where each item starts, and the end `(items + 1,)`, int32, on the model's device.
    """

    tokens: tuple[int, ...]
    cumulative: Tensor

    @classmethod
    def of(cls, tokens: Sequence[int], device: torch.device) -> "Lengths":
        """Make the lengths of items with so many tokens."""
        starts = list(accumulate(tokens, initial=0))
        return cls(tuple(tokens), torch.tensor(starts, dtype=torch.int32).to(device, non_blocking=True))

    @property
    def longest(self) -> int:
        """Tokens of the longest item."""
        return max(self.tokens)

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Consecutive items of equal length: how many, and their length."""
        return [(len([*group]), length) for length, group in groupby(self.tokens) if length]

    def arguments(self, implementation: str) -> dict[str, Any]:
        """Arguments of a backbone's forward that tell the attention of this name about the items."""
        if implementation == VARLEN:
            return {"lengths": self}
        return {
            "cu_seq_lens_q": self.cumulative,
            "cu_seq_lens_k": self.cumulative,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }


def takes_lengths(implementation: str | None) -> bool:
    """Tell whether the attention of this name can be told where items begin."""
    return implementation is not None and (implementation == VARLEN or "flash" in implementation)


def asked(model_kwargs: dict[str, Any]) -> bool:
    """Tell whether arguments of `from_pretrained` ask for `VARLEN`, and take it out: what cannot pack keeps another."""
    if model_kwargs.get("attn_implementation") != VARLEN:
        return False
    del model_kwargs["attn_implementation"]
    return True


def register() -> None:
    """Make `VARLEN` known to transformers."""
    transformers.AttentionInterface.register(VARLEN, varlen_attention)
    transformers.AttentionMaskInterface.register(VARLEN, varlen_mask)


def varlen_mask(**kwargs: Any) -> Tensor | None:
    """The mask that SDPA takes; None while a packed row runs, whose mask would be as wide and high as all items."""
    if _packed.get():
        return None
    mask: Tensor | None = transformers.masking_utils.sdpa_mask(**kwargs)
    return mask


@contextmanager
def packed_row() -> Iterator[None]:
    """Mark the forward of a packed row, for which no mask is made.

    Only the forward: layers that run again in backward (gradient checkpointing) get the mask that was made then, None.
    """
    token = _packed.set(True)
    try:
        yield
    finally:
        _packed.reset(token)


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    lengths: Lengths | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it.

    Args:
        module: The attention layer.
        query: `(rows, heads, tokens, dim)`; one row where packed.
        key: `(rows, key heads, tokens, dim)`; heads share key heads where there are fewer.
        value: As `key`.
        attention_mask: Of a batch that is not packed.
        dropout: Share of the weights that is dropped.
        scaling: Factor of the scores; None is one over the root of dim.
        is_causal: Whether a token sees only those before it; None asks the layer.
        sliding_window: Tokens from one to the first that it does not see; None sees all of its item.
        lengths: Of the items of a packed row.
        **kwargs: What other attention functions take.

    Returns:
        `(rows, tokens, heads, dim)`, and None for the weights.

    Raises:
        UnpackableError: The architecture wants more than this; only where packed.
    """
    if lengths is None:
        result: tuple[Tensor, None] = transformers.integrations.sdpa_attention.sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
        return result
    wanted = [name for name in UNKNOWN if kwargs.get(name) is not None]
    if wanted:
        raise UnpackableError(f"its attention takes {', '.join(wanted)}")
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    reach = None if sliding_window is None or sliding_window > lengths.longest else sliding_window - 1
    if _has_kernel(query, value, dropout):
        return _by_kernel(query, key, value, lengths, scaling, causal, reach), None
    return _by_runs(query, key, value, lengths, dropout, scaling, causal, reach), None


def _by_runs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Lengths,
    dropout: float,
    scaling: float | None,
    causal: bool,
    reach: int | None,
) -> Tensor:
    """SDPA of every run of items of equal length, which are a batch without a copy."""
    sizes = [count * length for count, length in lengths.runs]
    # Split, not sliced: the gradient of a slice is as long as the row.
    parts = zip(*(torch.split(tensor[0], sizes, dim=1) for tensor in (query, key, value)), strict=True)
    # Items come sorted by length, so equal ones are neighbours: a run is a view of shape (count, heads, length, dim), a
    # batch without padding or mask, and SDPA may take its fast kernels, which no mask of the whole row would allow.
    done = []
    for (count, length), part in zip(lengths.runs, parts, strict=True):
        q, k, v = (tensor.unflatten(1, (count, length)).transpose(0, 1) for tensor in part)
        window = _window(length, causal, reach, query.device)
        result = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=window,
            dropout_p=dropout,
            scale=scaling,
            is_causal=causal and window is None,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        done.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(done)[None]


def _window(length: int, causal: bool, reach: int | None, device: torch.device) -> Tensor | None:
    """Mask the tokens that each one sees `(length, length)`; None where it sees all, or all before it."""
    if reach is None or length <= reach + 1:
        return None
    places = torch.arange(length, device=device)
    before = places[:, None] - places
    return (before <= reach) & (before >= (0 if causal else -reach))


def _has_kernel(query: Tensor, value: Tensor, dropout: float) -> bool:
    """Tell whether torch's kernel for variable lengths takes this."""
    halves = (torch.float16, torch.bfloat16)
    dim = query.shape[-1]
    fits = query.is_cuda and query.dtype in halves and dim == value.shape[-1] and dim % 8 == 0 and dim <= 256
    return fits and not dropout and _kernel() is not None


@cache
def _kernel() -> Callable[..., Tensor] | None:
    """Find torch's kernel; None where it is not there, or is a first form that takes no window or unequal heads."""
    try:
        kernel: Callable[..., Tensor] = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return None
    return kernel if inspect.signature(kernel).parameters.keys() >= {"scale", "window_size", "enable_gqa"} else None


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, lengths: Lengths, scaling: float | None, causal: bool, reach: int | None
) -> Tensor:
    kernel = _kernel()
    assert kernel is not None, "it was asked for"
    left = -1 if reach is None else reach
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    where, longest = lengths.cumulative, lengths.longest
    result = kernel(
        q,
        k,
        v,
        where,
        where,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0 if causal else left),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(result, Tensor)  # a pair only where more is asked for
    return result[None]
