"""JSON that every reader takes: no number that is none, no text that is none."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from omnitune.errors import InputError


def json_text(value: Any, name: str, **options: Any) -> str:
    """Write a value as JSON that every reader takes.

    Python's own writes `NaN` and `Infinity`, which are no JSON: browsers, jq and databases refuse the whole file. Text
    that is no UTF-8 (names of files are bytes) is written as escapes.

    Args:
        value: What is written.
        name: Of the file or the answer, for the error.
        **options: Of `json.dumps`.

    Raises:
        InputError: A number is not finite; names its place.

    Example:
        >>> json_text({"loss": float("nan")}, "report.json")
        Traceback (most recent call last):
        omnitune.errors.InputError: report.json: expected finite numbers, got nan at 'loss'
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    except ValueError as error:
        if not str(error).startswith("Out of range float"):  # a circle
            raise
        place, number = next(_not_finite(value), ("a key", "one"))
        raise InputError(f"{name}: expected finite numbers, got {number} at {place!r}") from error
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, **options)
    return text


def _not_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Numbers inside JSON values that are none, with the keys that lead to them."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place, value
    elif isinstance(value, Mapping | list | tuple):
        for key, one in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _not_finite(one, f"{place}.{key}" if place else str(key))
