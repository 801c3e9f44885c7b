"""Settings out of a YAML file, checked against the signatures they are meant for.

YAML has two traps for settings: `2e-5` reads as text, and of a key given twice the last one silently wins. Both are
gone here.
"""

import dataclasses
import difflib
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from omnitune.errors import RecipeError


class _Loader(yaml.SafeLoader):
    """YAML with two traps removed: `2e-5` is a number, and a key given twice is an error."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, f"expected a name before the colon (line {line})")
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice (line {line})")
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """The top-level mapping of a YAML text; empty for an empty text.

    Raises:
        RecipeError: It is not YAML, gives a key twice, or is no mapping.
    """
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not readable as YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise RecipeError(f"{source}: expected sections such as 'model:' and 'training:', got {kind(loaded)}")
    return loaded


def parameters(of: Callable[..., Any], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Named parameters of a function or of a class's constructor, with their type annotations."""
    # A dataclass's __init__ is generated: its annotations only resolve from the class, module by module of its bases.
    written = of.__init__ if inspect.isclass(of) and not dataclasses.is_dataclass(of) else of
    hints = typing.get_type_hints(written)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: hints.get(name, Any)
        for name, parameter in inspect.signature(of).parameters.items()
        if parameter.kind in named and name not in without
    }


def unknown(name: str, known: Sequence[str], noun: str) -> str:
    """Says that `name` is no known `noun`, with the nearest one that is, or with all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"unknown {noun} {name!r}; did you mean {near[0]!r}?"
    listed = ", ".join(known) if len(known) <= 20 else ", ".join(known[:20]) + ", ..."
    return f"unknown {noun} {name!r}; expected one of: {listed}"


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value out of YAML is what a type annotation asks for."""
    if annotation is Any:
        return True
    if annotation is None or annotation is types.NoneType:
        return value is None
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _fits_generic(value, origin, typing.get_args(annotation))
    if not inspect.isclass(annotation):
        return False
    if issubclass(annotation, enum.Enum):
        return value in [member.value for member in annotation]
    return _fits_class(value, annotation)


def _alternatives(arguments: tuple[Any, ...]) -> list[Any]:
    """Of `Enum | str`, the values of the enum only: the text is how one writes them, not any text."""
    closed = any(inspect.isclass(one) and issubclass(one, enum.Enum) for one in arguments)
    return [one for one in arguments if not (closed and one is str)]


def _fits_generic(value: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in _alternatives(arguments))
    if origin is Literal:
        return value in arguments
    if not inspect.isclass(origin):
        return False
    if issubclass(origin, Mapping):
        return isinstance(value, dict) and all(fits(v, arguments[1]) for v in value.values())
    if issubclass(origin, Sequence | set):
        return isinstance(value, list) and all(fits(v, arguments[0]) for v in value)
    return False


def _fits_class(value: Any, annotation: type) -> bool:
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if issubclass(annotation, Path):
        return isinstance(value, str)
    return isinstance(value, annotation)


def describe(annotation: Any) -> str:
    """What a type annotation asks for, in words of a YAML file."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(one) for one in _alternatives(arguments)))
    if origin is Literal:
        return "one of " + ", ".join(repr(one) for one in arguments)
    if annotation is types.NoneType:
        return "null"
    if annotation is not Any and inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in annotation)
    if origin is not None and inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"a list of {describe(arguments[0])}"
    return _NOUNS.get(annotation, getattr(annotation, "__name__", str(annotation)))


_NOUNS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}


def kind(value: Any) -> str:
    """A value and what it is, for an error."""
    if value is None:
        return "nothing"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({_NOUNS.get(type(value), type(value).__name__)})"
