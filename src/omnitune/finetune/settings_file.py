"""Settings in a YAML file: reading them, and checking a value against a type annotation."""

import difflib
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from omnitune.errors import RecipeError


def fits(value: Any, annotation: Any) -> bool:
    """Check a value out of YAML against a type annotation.

    Values are checked as JSON: a text stands for a member of an enum and for a path there, and nothing else is
    converted, so neither `"2"` nor `true` is a number.
    """
    # Of `Enum | str`, only the values of the enum: the text is how one writes them, not any text.
    closed = [one for one in typing.get_args(annotation) if inspect.isclass(one) and issubclass(one, enum.Enum)]
    if closed:
        annotation = typing.Union[tuple(one for one in typing.get_args(annotation) if one is not str)]  # noqa: UP007
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass or a model brings its own config
        adapter = TypeAdapter(annotation)
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except (ValidationError, TypeError):  # TypeError: a YAML date, or a key that is no text
        return False
    return True


def described(annotation: Any) -> str:
    """Say in words of a YAML file what a type annotation asks for."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        closed = any(inspect.isclass(one) and issubclass(one, enum.Enum) for one in arguments)
        return " or ".join(dict.fromkeys(described(one) for one in arguments if not (closed and one is str)))
    if origin is Literal:
        return "one of " + ", ".join(repr(one) for one in arguments)
    if annotation is types.NoneType:
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in annotation)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"a list of {described(arguments[0])}"
    return _NOUNS.get(annotation, getattr(annotation, "__name__", str(annotation)))


_NOUNS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false",
                          dict: "a mapping", list: "a list"}  # fmt: skip


def shown(value: Any) -> str:
    """Name a value and its type, for an error."""
    if value is None:
        return "nothing"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({_NOUNS.get(type(value), type(value).__name__)})"


def unknown(name: str, known: Sequence[str], noun: str) -> str:
    """Say that `name` is no known `noun`, with the nearest one that is, or with all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"unknown {noun} {name!r}; did you mean {near[0]!r}?"
    listed = ", ".join(known) if len(known) <= 20 else ", ".join(known[:20]) + ", ..."
    return f"unknown {noun} {name!r}; expected one of: {listed}"


# --- reading ----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with two traps removed: `2e-5` is a number, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Make a dict of names."""
        seen = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, f"expected a name before the colon (line {line})")
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice (line {line})")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_NUMBER = re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """Read sections by name.

    Raises:
        RecipeError: It is no YAML, or no mapping; names `source`.
    """
    try:
        loaded = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not readable as YAML: {error}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise RecipeError(f"{source}: expected sections such as 'model:' and 'training:', got {shown(loaded)}")
    return loaded
