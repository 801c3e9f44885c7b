"""A chat template rendered once a shape: conversations that differ in their texts alone differ there in the result.

A template is a program, which may trim a text, branch on it, or show half of it. So a shape (roles, kinds of parts, the
prompt) is rendered with texts that may be shown and joined to others and nothing else: whatever looks at one ends the
attempt, and such conversations are rendered as they are, always. What is shown says where texts go. The first
conversation of a shape is rendered as well, and must be what putting its texts there gives.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any

from jinja2 import Environment, Template, TemplateError, nodes
from jinja2.runtime import Context, Macro
from transformers.utils.chat_template_utils import _compile_jinja_template

from omnitune.inputs.messages import Conversation

SHAPES = 256
"""Shapes that are remembered."""

_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_CAPTURES = (nodes.Concat, nodes.AssignBlock, nodes.CallBlock, nodes.FilterBlock, nodes.ImportedName, nodes.Include)
"""What makes plain text of texts, which is then not watched."""

_TYPES = frozenset(
    {"string", "mapping", "iterable", "sequence", "defined", "undefined", "none", "number", "boolean", "true", "false",
     "integer", "float", "callable"}
)  # fmt: skip
"""Tests that look at what a value is and not at what is in it."""

_PASSING = frozenset(
    {"length", "count", "first", "last", "list", "reverse", "selectattr", "rejectattr", "map", "items", "default", "d"}
)
"""Filters that hand on what a collection holds; what they ask of it is asked through watched tests."""


class _LookedAt(Exception):
    """A template looks at a text."""


class _Text(str):
    """A text that may be shown and joined to another; every other use raises."""

    def __str__(self) -> str:
        return str.__str__(self)

    def __add__(self, other: str) -> "_Text":
        return _Text(str.__add__(self, other))

    def __radd__(self, other: str) -> "_Text":
        return _Text(str.__add__(other, self))

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__"):
            raise _LookedAt(name)
        return super().__getattribute__(name)


def _raising(name: str) -> Callable[..., Any]:
    def use(*_arguments: Any) -> Any:
        raise _LookedAt(name)

    return use


_USES = ("len", "iter", "contains", "getitem", "eq", "ne", "lt", "le", "gt", "ge", "hash", "mod", "rmod", "mul", "rmul",
         "repr", "format")  # fmt: skip
for _use in _USES:
    setattr(_Text, f"__{_use}__", _raising(_use))


class Shapes:
    """Texts of conversations by a chat template, which is rendered once a shape.

    Args:
        source: The template.

    Attributes:
        renders: Conversations that the template was rendered for.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.renders = 0
        self._known: dict[str, list[str | int] | None] = {}

    def texts(
        self,
        conversations: Sequence[Conversation],
        options: Mapping[str, Any],
        render: Callable[[Conversation], str],
    ) -> list[str] | None:
        """What the template makes of each; None where they must be rendered as they are.

        Args:
            conversations: Of messages with a role and a content.
            options: What else the template is given.
            render: Renders a conversation as it is.
        """
        made = []
        given = repr(sorted(options.items()))
        for conversation in conversations:
            if any(message.keys() != {"role", "content"} for message in conversation):
                return None
            texts: list[str] = []
            if any(_OPEN in str(message["content"]) for message in conversation if message["role"] == "system"):
                return None
            view = [_view(message, texts, "", literal=message["role"] == "system") for message in conversation]
            key = f"{given} {view!r}"
            if key not in self._known:
                if len(self._known) >= SHAPES:
                    self._known.clear()
                shape = self._shape(view, options)
                self._known[key] = shape if shape and _spliced(shape, texts) == render(conversation) else None
            shape = self._known[key]
            if shape is None:
                return None
            made.append(_spliced(shape, texts))
        return made

    def _shape(self, view: Any, options: Mapping[str, Any]) -> list[str | int] | None:
        """The template's own text, and the numbers of the texts between; None where it looks at one."""
        watched = _watched(self.source)
        if watched is None:
            return None
        self.renders += 1
        arguments: dict[str, Any] = {"tools": None, "documents": None, "add_generation_prompt": False, **options}
        try:
            rendered = watched.render(messages=_marked(view), **arguments)
        except (_LookedAt, TemplateError, TypeError):  # an error of the template comes again when it is rendered
            return None
        return [int(part) if i % 2 else part for i, part in enumerate(_MARK.split(rendered))]


def _spliced(shape: Sequence[str | int], texts: Sequence[str]) -> str:
    return "".join(texts[part] if isinstance(part, int) else part for part in shape)


def images_of(conversations: Sequence[Conversation]) -> list[list[Any]] | None:
    """The images of each conversation; None where one holds other media, or an image that is not yet loaded."""
    found: list[list[Any]] = []
    for conversation in conversations:
        lists = [message["content"] for message in conversation if isinstance(message["content"], list)]
        parts = [part for content in lists for part in content if part.get("type") != "text"]
        if any(part.keys() != {"type", "image"} for part in parts):
            return None
        found.append([part["image"] for part in parts])
    return found


def _view(value: Any, texts: list[str], key: Any, *, literal: bool) -> Any:
    """What a template sees: texts as marks, and media as what they are called, as transformers shows them."""
    if isinstance(value, str):
        if literal or key not in ("content", "text"):
            return str(value)
        texts.append(value)
        return f"{_OPEN}{len(texts) - 1}{_CLOSE}"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _view(part, texts, name, literal=literal) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_view(part, texts, key, literal=literal) for part in value]
    return f"<{type(value).__name__}>"


def _marked(view: Any) -> Any:
    """The view with its marks as texts that are watched."""
    if isinstance(view, str):
        return _Text(view) if _OPEN in view else view
    if isinstance(view, dict):
        return {name: _marked(part) for name, part in view.items()}
    return [_marked(part) for part in view] if isinstance(view, list) else view


@lru_cache(maxsize=16)
def _watched(source: str) -> Template | None:
    """The template in an environment that watches; None where it makes plain text of texts on the way."""
    plain: Environment = _compile_jinja_template(source).environment
    tree = plain.parse(source)
    formats = any(
        isinstance(side, nodes.Const) and isinstance(side.value, str)
        for node in tree.find_all(nodes.Mod)
        for side in (node.left, node.right)
    )
    if formats or next(tree.find_all(_CAPTURES), None) is not None:
        return None
    made = plain.overlay()
    made.filters = {name: _watching_filter(name, function) for name, function in plain.filters.items()}
    made.tests = {name: _watching_test(name, function) for name, function in plain.tests.items()}
    calls, namespace = plain.call, plain.globals.get("namespace")  # type: ignore[attr-defined]  # a sandbox has calls

    def call(context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
        held = isinstance(function, Macro) or function is namespace
        if not held and _holds((arguments, named)):
            raise _LookedAt(function)
        result = calls(context, function, *arguments, **named)
        return _Text(result) if isinstance(result, str) and _OPEN in str(result) else result

    made.call = call  # type: ignore[attr-defined]
    return made.from_string(source)


def _watching_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def use(*arguments: Any, **named: Any) -> Any:
        if _holds((arguments, named), deep=name not in _PASSING) and name not in ("default", "d"):
            raise _LookedAt(name)
        result = function(*arguments, **named)
        if isinstance(result, str) and type(result) is not _Text and _OPEN in result:
            raise _LookedAt(name)
        return result

    return use


def _watching_test(name: str, function: Any) -> Callable[..., Any]:
    @wraps(function)
    def use(*arguments: Any, **named: Any) -> Any:
        if name in _TYPES:
            arguments = tuple(str(part) if isinstance(part, _Text) else part for part in arguments)
        elif _holds((arguments, named)):
            raise _LookedAt(name)
        return function(*arguments, **named)

    return use


def _holds(value: Any, *, deep: bool = True, depth: int = 0) -> bool:
    """Whether a text is among arguments, or, `deep`, in what one of them holds."""
    if isinstance(value, str):
        return _OPEN in str(value)
    if isinstance(value, Context) or (depth > 1 and not deep):
        return False
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple | set):
        return False
    return any(_holds(part, deep=deep, depth=depth + 1) for part in value)
