"""Raw items to loaded ones: what a processor takes, with media decoded."""

from typing import Any

from omnitune.errors import ModalityError
from omnitune.inputs.detect import MEDIA
from omnitune.inputs.policy import MediaPolicy
from omnitune.types import Modality


def load(item: Any, modality: Modality, policy: MediaPolicy) -> Any:
    """The loaded form of an item.

    Args:
        item: Any accepted form.
        modality: What it is.
        policy: Limits on media.

    Returns:
        Text as it is; an image as `PIL.Image`; a dict with its values loaded; a conversation with its media loaded.

    Raises:
        MediaError: Something cannot be read; the message names it.
        ModalityError: It is media of a kind that this version does not read.
    """
    if modality == "text":
        return item["text"] if isinstance(item, dict) else item
    if modality == "message":
        return [_message(message, policy) for message in ([item] if isinstance(item, dict) else item)]
    if isinstance(modality, tuple):
        return {kind: _values(value, kind, policy) for kind, value in item.items()}
    return _media(item[modality] if isinstance(item, dict) and modality in item else item, modality, policy)


def _media(item: Any, modality: str, policy: MediaPolicy) -> Any:
    read = MEDIA[modality].load
    if read is None:
        raise ModalityError(f"inputs: this version does not read {modality} yet; it takes text and images")
    return read(item, policy)


def _values(value: Any, kind: str, policy: MediaPolicy) -> Any:
    if isinstance(value, list):
        return [_values(part, kind, policy) for part in value]
    return value if kind == "text" else _media(value, kind, policy)


def _message(message: dict[str, Any], policy: MediaPolicy) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, list):
        return dict(message)
    return {**message, "content": [_part(part, policy) for part in content]}


def _part(part: Any, policy: MediaPolicy) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in MEDIA:
        return part
    value = part.get(kind, part.get("url", part.get("path")))
    return {"type": kind, kind: _media(value, kind, policy)}
