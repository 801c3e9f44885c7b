"""Conversations: how an item becomes one, in the form that a model's chat template reads.

A template takes the content of a message either *structured*, as a list of typed parts, or *flat*, as the bare value.
"""

from collections.abc import Collection, Sequence
from typing import Any

from omnitune.errors import ModalityError
from omnitune.types import Modality

Message = dict[str, Any]
Conversation = list[Message]

_STRUCTURED_SIGNS = ("content[0]", ".type", "'type'", '"type"', "message.content[")


def reads_structured(template: Any, *, known: bool | None = None) -> bool:
    """Whether a chat template takes structured content.

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
    """An item as a conversation: what it holds is one message of the user.

    Args:
        item: A loaded item: text, image, a dict of them, or already a message or a conversation.
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
        parts += [{"type": kind, kind: part} for part in (value if isinstance(value, list | tuple) else [value])]
    return parts


def is_text_only(conversations: Sequence[Conversation]) -> bool:
    """Whether no message holds anything but text."""
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
