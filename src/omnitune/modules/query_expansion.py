"""Queries filled up with a token whose contextual vectors ask for more than the words do (ColBERT's augmentation).

Tokens that are added are marked in `"query_expansion_positions"` `(rows, tokens)`, because the attention mask says of
them that no token looks at them, unless `attend` is set.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from omnitune.errors import InputError
from omnitune.types import Features

logger = logging.getLogger(__name__)

POSITIONS = "query_expansion_positions"
"""Feature that says which tokens were added `(rows, tokens)`, bool."""

_DEFAULTS: Mapping[str, Any] = {"strategy": None, "attend": False, "token": None, "length": None}
_STRATEGIES = ("fixed", "min")


def settled(
    expansion: Mapping[str, Any] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    query_length: int | None,
    attention: str,
    *,
    message: bool,
) -> dict[str, Any] | None:
    """The settings, checked, with defaults for what is not said; None for none.

    Args:
        expansion: `strategy`: "fixed" makes every query exactly `length` tokens, "min" at least; `length`; `attend`:
            whether other tokens look at the added ones; `token`: the one that is added, None for the mask token, else
            the token that ends a text.
        tokenizer: The backbone's.
        query_length: Tokens after which a query is cut, or None.
        attention: The backbone's kind of attention.
        message: Whether the backbone takes conversations.

    Raises:
        InputError: A setting cannot work; the message names it.
    """
    if expansion is None:
        return None
    if message:
        raise InputError(
            "query_expansion: expected None for a backbone that takes conversations, whose template ends a query"
        )
    unknown = sorted(expansion.keys() - _DEFAULTS.keys())
    if unknown:
        raise InputError(f"query_expansion: expected keys among {[*_DEFAULTS]}, got {unknown}")
    made = {**_DEFAULTS, **expansion}
    length, attend = made["length"], made["attend"]
    if made["strategy"] not in _STRATEGIES:
        raise InputError(f"query_expansion: strategy: expected one of {_STRATEGIES}, got {made['strategy']!r}")
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise InputError(f"query_expansion: length: expected a positive number of tokens (ColBERT: 32), got {length!r}")
    if query_length is not None and query_length < length:
        raise InputError(f"query_length: expected at least the {length} tokens of query_expansion, got {query_length}")
    if not isinstance(attend, bool):
        raise InputError(f"query_expansion: attend: expected True or False, got {attend!r}")
    if not attend and "flash" in attention:
        raise InputError(
            f"query_expansion: attend=False: expected an attention that computes tokens which are not looked at, got "
            f"{attention}; use attn_implementation='sdpa', or attend=True"
        )
    token_id(made, tokenizer)
    return made


def token_id(expansion: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Id of the token that is added.

    Raises:
        InputError: The tokenizer has none.
    """
    asked = expansion["token"]
    names = [asked] if asked is not None else [getattr(tokenizer, n, None) for n in ("mask_token", "eos_token")]
    name = next((name for name in names if name is not None), None)
    found = None if tokenizer is None or name is None else tokenizer.convert_tokens_to_ids(name)
    if found is None or (found == tokenizer.unk_token_id and name != tokenizer.unk_token):  # type: ignore[union-attr]
        raise InputError(f"query_expansion: token: expected a token of the vocabulary, got {name!r}")
    return int(found)


def text_arguments(expansion: Mapping[str, Any], limit: int | None) -> dict[str, Any]:
    """Arguments of the tokenizer for queries.

    Args:
        expansion: From `settled`.
        limit: Tokens after which queries would be cut without it.
    """
    length = expansion["length"]
    if expansion["strategy"] == "fixed":
        return {"max_length": length, "padding": "max_length", "truncation": True}
    return {} if limit is None else {"max_length": max(limit, length), "truncation": True}


def expanded(
    features: Features, expansion: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, *, warned: bool
) -> bool:
    """Fill queries up, in place.

    Args:
        features: Padded ids and their mask.
        expansion: From `settled`.
        tokenizer: Whose padding side counts.
        warned: Whether it was said before that queries are cut.

    Returns:
        Whether it is said now.
    """
    left, length = tokenizer.padding_side == "left", expansion["length"]
    missing = length - features["input_ids"].shape[1]
    if missing > 0:
        padding = (missing, 0) if left else (0, missing)
        for key in [key for key in ("input_ids", "attention_mask", "token_type_ids") if key in features]:
            value = tokenizer.pad_token_id if key == "input_ids" else 0
            features[key] = torch.nn.functional.pad(features[key], padding, value=value)
    mask = features["attention_mask"].bool()
    width = mask.shape[1]
    places = torch.arange(width)
    added = ~mask & (places >= width - length if left else places < length)
    features["input_ids"] = features["input_ids"].masked_fill(added, token_id(expansion, tokenizer))
    if expansion["attend"]:
        features["attention_mask"] = features["attention_mask"].masked_fill(added, 1)
    features[POSITIONS] = added
    full = expansion["strategy"] == "fixed" and bool((mask.sum(dim=1) >= length).any())
    if full and not warned:
        logger.warning(
            "query_expansion: a query fills all of its %d tokens; what is beyond them is cut. Set a larger length, or "
            "strategy='min'.", length,
        )  # fmt: skip
    return full
