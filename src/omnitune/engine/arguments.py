"""Checks of arguments of public calls, so that each is one sentence before any work and no trace after it."""

import operator
import os
import reprlib
from collections.abc import Mapping
from typing import Any

from omnitune.errors import InputError


def count(name: str, value: Any, *, least: int = 1) -> int:
    """Take a whole number: an `int`, or what stands for one, such as numpy's.

    Raises:
        InputError: It is none, or less than `least`.

    Example:
        >>> count("batch_size", np.int64(8))
        8
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise InputError(f"{name}: expected a whole number, got {type(value).__name__} {reprlib.repr(value)}")
    if number < least:
        wanted = "a positive number" if least == 1 else f"a number from {least} on"
        raise InputError(f"{name}: expected {wanted}, got {number}")
    return number


def count_or_none(name: str, value: Any, *, least: int = 1) -> int | None:
    """Take a whole number or None.

    Raises:
        InputError: It is neither, or less than `least`.
    """
    return None if value is None else count(name, value, least=least)


def text_or_none(name: str, value: Any) -> str | None:
    """Take a text or None.

    Raises:
        InputError: It is neither.
    """
    if value is None or isinstance(value, str):
        return value
    raise InputError(f"{name}: expected one text, or None, got {type(value).__name__} {reprlib.repr(value)}")


def path_or_none(name: str, value: Any) -> str | None:
    """Take a path or the name of a repository, as text; or None.

    Raises:
        InputError: It is none of these.
    """
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if isinstance(path, str) and path and "\x00" not in path:
            return path
    raise InputError(
        f"{name}: expected a directory or the name of a repository such as owner/name, "
        f"got {type(value).__name__} {reprlib.repr(value)}"
    )


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Take a dict whose keys are texts; None is an empty one.

    Raises:
        InputError: It is none.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name}: expected a dict by name, got {type(value).__name__} {reprlib.repr(value)}")
    return dict(value)


def prompts(value: Any) -> dict[str, str]:
    """Take prompt texts by name.

    Raises:
        InputError: It is no dict, or one of them is no text.
    """
    checked = mapping("prompts", value)
    for name, text in checked.items():
        if not isinstance(text, str):
            raise InputError(f"prompts: expected a text for {name!r}, got {type(text).__name__} {reprlib.repr(text)}")
    return checked
