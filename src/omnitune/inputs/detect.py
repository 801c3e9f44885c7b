"""Detection of an input's modality: text, media, a dict of several, or a conversation."""

import io
import os
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from omnitune.errors import InputError, MediaNotFoundError, ModalityError
from omnitune.inputs import audio, image, video
from omnitune.inputs.endings import AMBIGUOUS, ENDINGS, UNREAD
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.sampling import Sampling
from omnitune.inputs.source import is_open_file, local_path, peeked
from omnitune.types import Modality

LONGEST_PATH = 4096
LONGEST_ENDING = 8
HEAD = 512
"""Bytes of a file that say what it is."""

LONGEST_NAME = 6
"""Words of a file name: a string that ends like one, has more words and names no folder is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A modality of media, how it is recognised and read; each is a row of `MEDIA`.

    Attributes:
        signature: How its bytes begin, as a regular expression; what begins otherwise is taken for an image.
        load: Raw item, policy and sampling to the loaded item.
        size: Raw item and policy to the arguments of its cost rule, read from the header.
    """

    signature: bytes | None
    load: Callable[[Any, MediaPolicy, Sampling], Any]
    size: Callable[[Any, MediaPolicy], tuple[Any, ...]]


MEDIA: dict[str, Kind] = {
    "image": Kind(
        signature=None,
        load=lambda item, policy, sampling: image.load_image(item, policy, sampling.max_ratio),
        size=image.image_size,
    ),
    "audio": Kind(
        signature=audio.SIGNATURE,
        load=audio.load_audio,
        size=audio.audio_size,
    ),
    "video": Kind(
        signature=video.SIGNATURE,
        load=video.load_video,
        size=video.video_size,
    ),
}
PARTS = ("text", *MEDIA)

DECODERS: dict[str, Modality] = {"get_all_samples": "audio", "get_frames_at": "video"}
"""Methods by which a decoder such as torchcodec's, and `datasets`' wrapper of it, is known."""


def modality_of(item: Any, *, supported: Collection[Modality]) -> Modality:
    """Detect the modality of a raw input.

    A bare string is text unless it looks like the path or address of media that the model takes.

    Args:
        item: Any accepted form.
        supported: Modalities the model takes.

    Raises:
        ModalityError: It is nothing that can be encoded.
        MediaNotFoundError: It looks like a path of media, and nothing is there.
    """
    if isinstance(item, str):
        return _of_string(item, supported)
    if isinstance(item, Image.Image):
        return "image"
    if isinstance(item, bytes | bytearray | memoryview):
        return _of_bytes(item)
    if is_open_file(item):
        return _of_bytes(peeked(item, HEAD))
    if isinstance(item, os.PathLike):
        return _looks_like(str(item), rarer=True) or "image"
    if isinstance(item, np.ndarray | torch.Tensor):
        return _of_array(item)
    if isinstance(item, dict):
        return _of_dict(item)
    if isinstance(item, list | tuple) and item and all(is_message(part) for part in item):
        return "message"
    if isinstance(item, tuple) and item and all(isinstance(part, str) for part in item):
        return "text"
    return _of_decoder(item)


def check_text(item: Any) -> None:
    """Check that an input's text is whole: no tokenizer takes half of a surrogate pair.

    Args:
        item: Any accepted form; strings in it are looked at.

    Raises:
        InputError: A string has a lone surrogate.
    """
    if isinstance(item, dict):
        item = [value for key, value in item.items() if key in ("text", "content")]
    if isinstance(item, list | tuple):
        for part in item:
            check_text(part)
    elif isinstance(item, str) and not item.isascii():
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"inputs: expected text, got half of a character, {item[error.start]!r}, at position {error.start} of "
                f"{item[:80]!r}; text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') mends it"
            ) from error


def is_single(inputs: Any) -> bool:
    """Tell whether `inputs` is one input and not a batch; a list of messages is one conversation.

    Raises:
        InputError: It is a table or an open text file, of which column names or lines would be encoded.
    """
    if hasattr(inputs, "columns") and not hasattr(inputs, "column_names"):
        columns = ", ".join(map(repr, list(inputs.columns)[:8]))
        raise InputError(
            f"inputs: expected a list of inputs, got a {type(inputs).__name__} with the columns {columns}; give one "
            'column, as df["text"], or rows, as df.to_dict("records")'
        )
    if isinstance(inputs, io.TextIOBase):
        raise InputError(
            f"inputs: expected a list of inputs, got the open text file {getattr(inputs, 'name', inputs)!r}; give its "
            "text, file.read(), its lines, file.read().splitlines(), or the path of a recording or picture"
        )
    if isinstance(inputs, list | tuple):
        return bool(inputs) and isinstance(inputs, list) and is_message(inputs[0])
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 0 or inputs.dtype.kind not in ("U", "O")
    return (
        not isinstance(inputs, Iterable)
        or is_open_file(inputs)
        or isinstance(inputs, str | bytes | bytearray | memoryview | dict | Image.Image | os.PathLike | torch.Tensor)
    )


def is_conversation(item: Any) -> bool:
    """Tell whether `item` is a list of messages."""
    return isinstance(item, list) and bool(item) and all(is_message(message) for message in item)


def inputs_of(cell: Any) -> list[Any]:
    """The inputs in a cell of a dataset: the cell itself, or the entries of a list that is no conversation."""
    return cell if isinstance(cell, list) and not is_conversation(cell) else [cell]


def is_message(item: Any) -> bool:
    """Tell whether `item` is one message of a conversation."""
    return isinstance(item, dict) and "role" in item and "content" in item


def _of_string(text: str, supported: Collection[Modality]) -> Modality:
    kind = _looks_like(text)
    if kind is None and len(supported) > 1:
        return _of_rare_name(text, supported)
    if kind is None or kind not in supported:
        return "text"
    if text.startswith(("http://", "https://", "data:")) or os.path.isfile(local_path(text)):
        return kind
    # A sentence may end in a media file's extension and only mention one.
    words = text.split()
    if not any(mark in text for mark in "/\\") and (
        len(words) > LONGEST_NAME or (len(words) > 1 and words[-1].count(".") == 1 and words[-1].startswith("."))
    ):
        return "text"
    raise MediaNotFoundError(
        f"{text!r} looks like a path of {kind} media, and no such file is there (working folder {Path.cwd()}); "
        f'if it is text, give {{"text": {text!r}}}'
    )


def _of_rare_name(text: str, supported: Collection[Modality]) -> Modality:
    """Media where a string names such a file that is there: "index.ts" is text in a search of code."""
    ending = text[-LONGEST_ENDING:].lower()
    unread = "image" in supported and ending.endswith(UNREAD)
    kind = _looks_like(text, rarer=True)
    if not unread and (kind is None or kind not in supported):
        return "text"
    if text.startswith(("http://", "https://")):
        return "text" if kind is None or ending.endswith(AMBIGUOUS) else kind
    if len(text) > LONGEST_PATH or "\n" in text or not os.path.isfile(local_path(text)):
        return "text"
    if kind is None:
        raise ModalityError(
            f"inputs: {text!r} is a file of a format that is not read; convert it to PNG or JPEG, make pages of a PDF "
            f'with omnitune.documents, or, if it is text, give {{"text": {text!r}}}'
        )
    if ending.endswith(AMBIGUOUS):
        with local_path(text).open("rb") as file:
            return kind if video.is_transport_stream(file.read(HEAD)) else "text"
    return kind


def _looks_like(text: str, *, rarer: bool = False) -> str | None:
    if text.startswith("data:"):
        return next((kind for kind in MEDIA if text.startswith(f"data:{kind}/")), None)
    if len(text) > LONGEST_PATH or "\n" in text:
        return None
    name = re.split("[?#]", text, maxsplit=1)[0] if text.startswith(("http://", "https://")) else text
    name = name[-LONGEST_ENDING:].lower()
    return next(
        (kind for kind, row in ENDINGS.items() if name.endswith(row.common + (row.rarer if rarer else ()))), None
    )


def _of_decoder(item: Any) -> Modality:
    for method, kind in DECODERS.items():
        if hasattr(item, method):
            return kind
    raise ModalityError(
        "inputs: expected text, an image, audio, video, a dict such as {'text': ..., 'image': ...} or a conversation; "
        f"got {type(item).__name__}: {repr(item)[:80]}"
    )


def _of_bytes(content: bytes | bytearray | memoryview) -> Modality:
    head = bytes(content[:HEAD])
    if video.is_transport_stream(head):
        return "video"
    kinds = (kind for kind, row in MEDIA.items() if row.signature and re.match(row.signature, head, re.DOTALL))
    return next(kinds, "image")


def _of_array(array: Any) -> Modality:
    integers = str(array.dtype).removeprefix("torch.").startswith("uint8")
    if array.ndim == 3 or (array.ndim == 2 and integers):
        return "image"
    if array.ndim in (1, 2):
        return "audio"
    if array.ndim in (4, 5):
        return "video"
    raise ModalityError(f"inputs: expected an array of 1 to 5 dimensions, got shape {tuple(array.shape)}")


def _of_dict(item: dict[str, Any]) -> Modality:
    if is_message(item):
        return "message"
    if "array" in item:
        return "audio" if "sampling_rate" in item else "video"
    if item.keys() and item.keys() <= {"bytes", "path"}:
        path = item.get("path")
        known = _looks_like(str(path), rarer=True) if path else None
        return known or (_of_bytes(item["bytes"]) if item.get("bytes") else "image")
    unknown = sorted(str(key) for key in item.keys() - set(PARTS))
    if unknown or not item:
        raise ModalityError(f"inputs: expected a dict with keys among {PARTS}, got {sorted(map(str, item))}")
    empty = [key for key, value in item.items() if value is None]
    if empty:
        raise ModalityError(f"inputs: expected values for {sorted(item)}, got None for {empty}")
    text = item.get("text", "")
    if not isinstance(text, str) and not (
        isinstance(text, list | tuple) and all(isinstance(part, str) for part in text)
    ):
        raise ModalityError(f"inputs: expected a string for 'text', got {type(text).__name__}: {repr(text)[:80]}")
    return next(iter(item)) if len(item) == 1 else tuple(sorted(item))
