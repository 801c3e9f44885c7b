"""Pairs of two long texts, cut before they are tokenized as pairs.

A tokenizer that cuts a pair keeps what it cut off, as every combination of a piece of the first text with a piece of
the second one: of two texts of 5,000 words and a limit of 64 tokens, 10,000 encodings in half a minute, which nobody
reads.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

LONG = 8
"""Characters for every token of the limit from which on a text counts as long; shorter ones have few pieces."""

MARGIN = 16
"""Tokens beyond the limit that stay, so that where a text is cut changes no token that is used."""


def shortened(tokenizer: Any, inputs: Sequence[Any], arguments: dict[str, Any]) -> list[Any]:
    """Cut the texts of pairs that are both long, so that the tokens that are used stay what they are.

    Args:
        tokenizer: What will cut them; only tokenizers of the `tokenizers` library have the trouble.
        inputs: Texts, or pairs of them.
        arguments: Of the tokenizer's call; `truncation` and `max_length` count.

    Returns:
        The inputs, in order.
    """
    limit = arguments.get("max_length") or getattr(tokenizer, "model_max_length", None)
    longest_first = arguments.get("truncation") in (True, "longest_first")
    if not (longest_first and isinstance(limit, int) and isinstance(tokenizer, PreTrainedTokenizerFast)):
        return list(inputs)
    return [
        _cut(tokenizer, pair, limit)
        if isinstance(pair, tuple | list) and len(pair) == 2 and all(len(text) > LONG * limit for text in pair)
        else pair
        for pair in inputs
    ]


def _cut(tokenizer: Any, pair: Sequence[str], limit: int) -> tuple[str, str]:
    first, second = (
        tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        for text in pair
    )
    # An odd limit gives its last token to the longer text, so the longer one has to stay the longer one.
    longer = len(first) > len(second)
    return (
        _until(pair[0], first, limit + MARGIN * (2 if longer else 1)),
        _until(pair[1], second, limit + MARGIN * (1 if longer else 2 if len(first) < len(second) else 1)),
    )


def _until(text: str, offsets: Sequence[tuple[int, int]], tokens: int) -> str:
    """Cut a text after so many tokens, at the end of a word where there is one within as many more."""
    if len(offsets) <= tokens:
        return text
    end = int(offsets[tokens - 1][1])
    latest = int(offsets[min(tokens + MARGIN // 2, len(offsets)) - 1][1])
    space = next((place for place in range(end, latest) if text[place].isspace()), end)
    return text[:space]
