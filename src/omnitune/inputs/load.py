"""Raw items to loaded ones, as processors take them: media are decoded."""

from typing import Any

from omnitune.inputs.detect import MEDIA
from omnitune.inputs.isolated import decode
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import AS_IT_IS, Sampling
from omnitune.inputs.video import are_frames
from omnitune.types import Modality


def load(item: Any, modality: Modality, policy: MediaPolicy, sampling: Sampling = AS_IT_IS) -> Any:
    """Load an item: decode its media, keep its text.

    Args:
        item: Any accepted form.
        modality: What it is.
        policy: Limits on media.
        sampling: The model's rate of audio and its rule for frames of video.

    Returns:
        Text as it is; an image as `PIL.Image`; audio as an array `(samples,)`; a video as a `Clip`; a dict with its
        values loaded; a conversation with its media loaded.

    Raises:
        MediaError: Something cannot be read; the message names it.
    """
    if modality == "text":
        return item["text"] if isinstance(item, dict) else item
    if modality == "message":
        return [_message(message, policy, sampling) for message in ([item] if isinstance(item, dict) else item)]
    if isinstance(modality, tuple):
        return {kind: _values(value, kind, policy, sampling) for kind, value in item.items()}
    value = item[modality] if isinstance(item, dict) and modality in item else item
    return decode(str(modality), value, policy, sampling)


def _values(value: Any, kind: str, policy: MediaPolicy, sampling: Sampling) -> Any:
    if isinstance(value, list) and not (kind == "video" and are_frames(value)):
        return [_values(part, kind, policy, sampling) for part in value]
    return value if kind == "text" else decode(kind, value, policy, sampling)


def _message(message: dict[str, Any], policy: MediaPolicy, sampling: Sampling) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, list):
        return dict(message)
    return {**message, "content": [_part(part, policy, sampling) for part in content]}


def _part(part: Any, policy: MediaPolicy, sampling: Sampling) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in MEDIA:
        return part
    value = part.get(kind, part.get("url", part.get("path")))
    return {"type": kind, kind: decode(kind, value, policy, sampling)}
