"""Older names that scripts still use: taken, said once, and handed on under today's."""

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from omnitune.errors import InputError

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])

DROPPED = ""
"""Stands for an argument that has no effect any more."""

_said: set[str] = set()


def say_once(message: str) -> None:
    """Log a warning, the first time."""
    if message not in _said:
        _said.add(message)
        logger.warning(message)


def renamed(**names: str) -> Callable[[Function], Function]:
    """Let a function take arguments by their older names too; where both are given, today's counts.

    Args:
        **names: Older name to today's, or to `DROPPED`.

    Example:
        >>> @renamed(sentences="inputs")
        ... def encode(inputs): ...
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function).parameters
        old = {name: new for name, new in names.items() if name not in parameters}

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for name in old.keys() & kwargs.keys():
                value, new = kwargs.pop(name), old[name]
                what = f"is called {new} now" if new else "has no effect any more"
                say_once(f"{function.__qualname__}: the argument {name} {what}")
                if new:
                    kwargs.setdefault(new, value)
            return function(*args, **kwargs)

        return cast(Function, call)

    return decorate


def renamed_loading(function: Function) -> Function:
    """Let the constructor of `Transformer` take its older arguments.

    `cache_dir` belongs into the keywords of each part that it loads; the others have other names today.
    """
    today = renamed(model_args="model_kwargs", tokenizer_args="processor_kwargs", config_args="config_kwargs")(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if (folder := kwargs.pop("cache_dir", None)) is not None:
            say_once("Transformer: cache_dir belongs into model_kwargs, processor_kwargs and config_kwargs now")
            for name in ("model_kwargs", "processor_kwargs", "config_kwargs"):
                kwargs[name] = {"cache_dir": folder, **(kwargs.get(name) or {})}
        return today(*args, **kwargs)

    return cast(Function, call)


def deprecated(old: str, new: str, category: type[Warning] = FutureWarning) -> None:
    """Warn the caller's caller that a method or an argument has another name.

    Args:
        old: What was used.
        new: What to use.
        category: Of the warning, as Sentence Transformers has it.
    """
    warnings.warn(f"{old} is deprecated; use {new}", category, stacklevel=3)


def missing(owner: str, name: str, left_out: Mapping[str, str]) -> AttributeError:
    """The error for a name that is not there, with what to use where that is known.

    Args:
        owner: Class or module, for the message.
        name: What was asked for.
        left_out: Names that are left out on purpose, and what takes their place.
    """
    if name in left_out:
        return AttributeError(f"{owner} has no {name!r} on purpose: {left_out[name]}")
    return AttributeError(f"{owner} has no attribute {name!r}")


def refuse_overrides(kind: type, left_out: Mapping[str, str]) -> None:
    """Refuse a class that overrides what nothing calls here.

    Args:
        kind: The class of the object that is made.
        left_out: Names that are left out on purpose, and what takes their place.

    Raises:
        InputError: It has one of them.
    """
    for name, instead in left_out.items():
        if hasattr(kind, name):
            raise InputError(
                f"{kind.__name__}.{name}: expected no override, because nothing calls it here, got one; {instead}"
            )
