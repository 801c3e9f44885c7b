"""Placeholders of options in the help, and the check of those that take one of a few words."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from omnitune.cli import console
from omnitune.errors import InputError
from omnitune.places import hint

_NOUNS = {"int": "N", "float": "NUMBER", "path": "PATH", "directory": "PATH", "file": "PATH"}
"""Placeholder of an option's value in the help, by the beginning of its type's name; others are TEXT."""


def with_nouns(params: list[Any], ctx: Any) -> list[Any]:
    """Give parameters the placeholders that were not written out: flags have none, arguments their name."""
    for param in params:
        if param.param_type_name == "argument":
            # typer would write the type of an argument beside its name, and braces around it in the usage.
            name = param.name.upper() + ("..." if param.nargs != 1 else "")
            param.metavar = name
            param.display_type_rich = lambda **_: None
            usage = [name if param.required else f"[{name}]"]
            param.get_usage_pieces = lambda _, usage=usage: usage
        elif getattr(param, "is_flag", False):
            param.metavar = ""
        elif param.metavar is None:
            # Older typer keeps click's types, newer shows its own as "<int range>" or "<list[path]>".
            kind = param.type.name if hasattr(param, "type") else param.display_type(ctx)
            kind = kind.strip("<>").removeprefix("list[")
            param.metavar = next((noun for name, noun in _NOUNS.items() if kind.startswith(name)), "TEXT")
    return params


class Command(TyperCommand):
    """A command whose help shows placeholders that a person knows."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with the placeholders that were not written out."""
        return with_nouns(super().get_params(ctx), ctx)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; one that ends by itself has no minute without a line."""
        if ctx.info_name == "serve":
            return super().invoke(ctx)
        with console.line_a_minute(str(ctx.info_name)):
            return super().invoke(ctx)


def one_of(*words: str) -> Callable[..., Any]:
    """Make the callback of an option that takes one of some words; a wrong one is answered before any import.

    Args:
        words: All that it takes.
    """

    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in words:
            raise InputError(
                f"{param.opts[0]}: expected {', '.join(words[:-1])} or {words[-1]}, got {value!r}{hint(value, words)}"
            )
        return value

    return check
