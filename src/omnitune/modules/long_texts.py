"""Texts far beyond the limit, cut before they are tokenized to their end.

A text of 20 MB takes half a minute and gigabytes for the 512 tokens that are used.
A tokenizer that cuts a pair keeps what it cut off, as every combination of a piece of the first text with a piece of
the second one: of two texts of 5,000 words and a limit of 64 tokens, 10,000 encodings in half a minute, which nobody
reads.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

HEAD = 40
"""Characters for every token of the limit that are read of a single text; one more than twice as long is cut there."""

LONG = 8
"""Characters for every token of the limit from which on a text counts as long; shorter ones have few pieces."""

MARGIN = 16
"""Tokens beyond the limit that stay, so that where a text is cut changes no token that is used."""


def shortened(tokenizer: Any, inputs: Sequence[Any], arguments: dict[str, Any]) -> list[Any]:
    """Cut long texts, and pairs of two long ones, so that the tokens that are used stay what they are.

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
    cut = list(inputs)
    for place, text in enumerate(inputs):
        if isinstance(text, str) and len(text) > 2 * HEAD * limit and tokenizer.truncation_side == "right":
            # The beginning up to a space, where that has the tokens that are used and some more.
            end = text.rfind(" ", limit, HEAD * limit)
            head = text[: max(end, 0)]
            found = tokenizer(head, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
            cut[place] = head if len(found) > limit + MARGIN else text
        elif isinstance(text, tuple | list) and len(text) == 2 and all(len(side) > LONG * limit for side in text):
            first, second = (
                tokenizer(one, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)[
                    "offset_mapping"
                ]
                for one in text
            )
            # An odd limit gives its last token to the longer text, so the longer one has to stay the longer one.
            longer, shorter = len(first) > len(second), len(first) < len(second)
            cut[place] = (
                _until(text[0], first, limit + MARGIN * (2 if longer else 1)),
                _until(text[1], second, limit + MARGIN * (2 if shorter else 1)),
            )
    return cut


def _until(text: str, offsets: Sequence[tuple[int, int]], tokens: int) -> str:
    """Cut a text after so many tokens, at the end of a word where there is one within as many more."""
    if len(offsets) <= tokens:
        return text
    end = int(offsets[tokens - 1][1])
    latest = int(offsets[min(tokens + MARGIN // 2, len(offsets)) - 1][1])
    space = next((place for place in range(end, latest) if text[place].isspace()), end)
    return text[:space]
