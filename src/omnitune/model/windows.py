"""Texts longer than a model's window, cut into overlapping windows so that all of them is read."""

from collections.abc import Callable
from typing import Any

OVERLAP = 0.25
"""Share of a window that the next one repeats."""

_ROOM = 0.2
"""Share of a window, at its end, in which the end of a sentence is looked for."""

_SENTENCE_ENDS = (".", "!", "?", "\n", "。", "！", "？", ":", ";")

Cut = Callable[[str], list[str]]
"""Cuts a text into windows, at least one."""


def window_cutter(model: Any, *, prompt: str | None = None, overlap: float = OVERLAP) -> Cut:
    """Return what cuts documents for a model: by its own tokens, at the ends of sentences where one is near.

    Args:
        model: An encoder with a tokenizer and a `max_seq_length`; for another, a text is its own window. A
            `document_length` of its first module that is less counts instead.
        prompt: Text that the model puts before every window.
        overlap: Share of a window that the next one repeats.

    Example:
        >>> cut = window_cutter(SentenceTransformer("embedded"))
        >>> [len(window.split()) for window in cut("word " * 600)]
        [254, 254, 220]
    """
    try:
        tokenizer, limit = model.tokenizer, model.max_seq_length
    except AttributeError:
        return lambda text: [text]
    if not limit or not getattr(tokenizer, "is_fast", False):
        return lambda text: [text]
    limit = min(int(limit), getattr(getattr(model, "input_module", None), "document_length", None) or int(limit))
    size = limit - tokenizer.num_special_tokens_to_add()
    size -= len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0
    size = max(size, 8)

    def cut(text: str) -> list[str]:
        made = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, padding=False, verbose=False
        )
        places = made["offset_mapping"]
        if len(places) <= size:
            return [text]
        windows, start = [], 0
        while True:
            stop = min(start + size, len(places))
            if stop < len(places):
                ends = range(stop, stop - int(size * _ROOM), -1)
                stop = next((end for end in ends if _ends_sentence(text, places[end - 1][1])), stop)
            windows.append(text[places[start][0] : places[stop - 1][1]])
            if stop == len(places):
                return windows
            start = max(stop - int(size * overlap), start + 1)

    return cut


def _ends_sentence(text: str, place: int) -> bool:
    return text[place - 1 : place] in _SENTENCE_ENDS or text[place : place + 1] == "\n"
