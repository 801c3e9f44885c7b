"""Conversations: how an item becomes one, in the form that a model's chat template reads.

A template takes the content of a message either *structured*, as a list of typed parts, or *flat*, as the bare value.
"""

from collections.abc import Collection, Sequence
from typing import Any

from omnitune.errors import ModalityError
from omnitune.inputs.video import are_frames
from omnitune.types import Modality

Message = dict[str, Any]
Conversation = list[Message]

PAIR_ROLES = ("query", "document")
"""Roles of the two messages that a pair becomes."""

_STRUCTURED_SIGNS = ("content[0]", ".type", "'type'", '"type"', "message.content[")


def reads_structured(template: Any, *, known: bool | None = None) -> bool:
    """Tell whether a chat template takes structured content.

    Args:
        template: Its source; anything else counts as structured.
        known: What is known about the architecture, which decides where it is not None.
    """
    if known is not None:
        return known
    if not isinstance(template, str) or not template:
        return True
    return any(sign in template for sign in _STRUCTURED_SIGNS)


def to_messages(item: Any, modality: Modality, *, prompt: str | None = None, structured: bool = True) -> Conversation:
    """Turn an item into a conversation: one message of the user; of a pair, a query's and a document's.

    Args:
        item: A loaded item: text, image, a dict of them, a pair of texts, or already a message or a conversation.
        modality: What it is.
        prompt: Put before it as a message of the system.
        structured: Which form of content the template reads.

    Raises:
        ModalityError: A message lacks its role or content.
    """
    if modality == "message":
        conversation = [dict(message) for message in ([item] if isinstance(item, dict) else item)]
        for message in conversation:
            if not {"role", "content"} <= message.keys():
                raise ModalityError(f"inputs: expected messages with 'role' and 'content', got keys {sorted(message)}")
            if message["role"] in PAIR_ROLES:
                message["content"] = _shaped(message["content"], structured)
    elif isinstance(item, tuple):
        conversation = [
            {"role": role, "content": _content(text, modality, structured)}
            for role, text in zip(PAIR_ROLES, item, strict=True)
        ]
    else:
        conversation = [{"role": "user", "content": _content(item, modality, structured)}]
    if prompt:
        system = [{"type": "text", "text": prompt}] if structured else prompt
        conversation.insert(0, {"role": "system", "content": system})
    return conversation


def _content(item: Any, modality: Modality, structured: bool) -> Any:
    if not isinstance(modality, tuple):
        value = item[modality] if isinstance(item, dict) and item.keys() == {modality} else item
        if not structured:
            return value
        item = {modality: value}
    parts = []
    for kind, value in item.items():
        several = isinstance(value, list | tuple) and not (kind == "video" and are_frames(value))
        parts += [{"type": kind, kind: part} for part in (value if several else [value])]
    return parts


def _shaped(content: Any, structured: bool) -> Any:
    """Content in the form that the template reads; what has several parts cannot be flat."""
    if structured:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content
    alone = isinstance(content, list) and len(content) == 1 and "text" in content[0]
    return content[0]["text"] if alone else content


def pair_to_messages(query: Any, document: Any, modalities: Sequence[Modality]) -> Conversation:
    """A pair of raw or loaded items as a conversation of a query and a document, in structured form.

    Args:
        query: Text, image, or a dict of several.
        document: The same.
        modalities: What the two are.
    """
    return [
        {"role": role, "content": _content(item, modality, True)}
        for role, item, modality in zip(PAIR_ROLES, (query, document), modalities, strict=True)
    ]


def is_text_only(conversations: Sequence[Conversation]) -> bool:
    """Tell whether all messages hold text alone."""
    return all(_is_text(message.get("content")) for conversation in conversations for message in conversation)


def _is_text(content: Any) -> bool:
    if isinstance(content, list):
        return all(part.get("type", "text") == "text" for part in content)
    return isinstance(content, str)


def count_parts(conversations: Sequence[Conversation], kinds: Collection[str]) -> dict[str, list[int]]:
    """For each of `kinds`, how many parts of that kind every conversation holds."""
    counts: dict[str, list[int]] = {kind: [0] * len(conversations) for kind in kinds}
    for row, conversation in enumerate(conversations):
        for message in conversation:
            content = message.get("content")
            for part in content if isinstance(content, list) else []:
                if part.get("type") in counts:
                    counts[part["type"]][row] += 1
    return counts
