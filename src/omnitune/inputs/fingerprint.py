"""What an item holds, as a short key: equal content gives equal keys, and nothing is decoded."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from omnitune.inputs.detect import MEDIA
from omnitune.inputs.image import described
from omnitune.inputs.policy import MediaPolicy
from omnitune.types import Modality

ANY_SIZE = MediaPolicy(max_bytes=1 << 62, allow_private_addresses=True)
"""Fingerprints refuse nothing: loading does."""

REMEMBERED_FILES = 100_000
DIGEST_BYTES = 16


def fingerprint(item: Any, modality: Modality) -> str:
    """A key of the content.

    A file gives one key by path, `Path`, bytes or `{"bytes", "path"}`; an image in memory is keyed by its pixels; a URL
    by its address.

    Args:
        item: A raw item.
        modality: What it is.

    Returns:
        32 hexadecimal digits.

    Raises:
        MediaError: A file is not there.
    """
    if modality == "text":
        return _digest(b"text", str(item["text"] if isinstance(item, dict) else item).encode())
    if isinstance(modality, tuple) or modality == "message":
        return _of_structure(item)
    value = item[modality] if isinstance(item, dict) and modality in item else item
    return _of_media(value, modality)


def _digest(*parts: bytes) -> str:
    made = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))
        made.update(part)
    return made.hexdigest()


def _of_media(item: Any, modality: str) -> str:
    if isinstance(item, Image.Image):
        return _digest(b"pixels", f"{item.mode} {item.size}".encode(), item.tobytes())
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu().numpy()
    if isinstance(item, np.ndarray):
        return _digest(b"array", f"{item.dtype} {item.shape}".encode(), np.ascontiguousarray(item).tobytes())
    if isinstance(item, str) and item.startswith(("http://", "https://")):
        return _digest(b"address", item.encode())
    source = MEDIA[modality].source
    if source is None:
        return _digest(b"other", described(item).encode())
    content = source(item, ANY_SIZE)
    if isinstance(content, Path):
        facts = content.stat()
        return _of_file(str(content), facts.st_mtime_ns, facts.st_size)
    return _digest(b"file", content)


@functools.lru_cache(maxsize=REMEMBERED_FILES)
def _of_file(path: str, modified: int, size: int) -> str:  # noqa: ARG001  # a changed file is another key
    return _digest(b"file", Path(path).read_bytes())


def _of_structure(value: Any) -> str:
    """Key of dicts, lists and what they hold; media by content, the rest by its text."""
    if isinstance(value, Mapping):
        parts = [
            f"{key}={_of_media(part, key) if key in MEDIA else _of_structure(part)}" for key, part in value.items()
        ]
        return _digest(b"dict", *(part.encode() for part in parts))
    if isinstance(value, list | tuple):
        return _digest(b"list", *(_of_structure(part).encode() for part in value))
    return _digest(b"value", repr(value).encode())
