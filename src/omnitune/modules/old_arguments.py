"""Older arguments of modules' constructors that are more than another name."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

from omnitune.renames import Function, deprecated, renamed, say_once


def modes_by_flags(keys: Mapping[str, str]) -> Callable[[Function], Function]:
    """Let a function take `pooling_mode` as the flags that it once was, such as `pooling_mode_mean_tokens=True`.

    Args:
        keys: Flag to mode, in the order in which the modes' vectors are joined.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if flags := {key: bool(kwargs.pop(key)) for key in keys if key in kwargs}:
                deprecated(f"Pooling({', '.join(flags)})", "pooling_mode")
                kwargs.setdefault("pooling_mode", tuple(keys[key] for key in keys if flags.get(key)) or "mean")
            return function(*args, **kwargs)

        return cast(Function, call)

    return decorate


def older_arguments(function: Function) -> Function:
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
