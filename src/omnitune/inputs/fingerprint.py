"""Short keys of content: equal content gives equal keys, and nothing is decoded."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from omnitune.inputs.detect import MEDIA
from omnitune.inputs.image import with_pixels
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.source import source
from omnitune.types import Modality

ANY_SIZE = MediaPolicy(max_bytes=1 << 62, max_clip_bytes=1 << 62, allow_private_addresses=True)
"""Fingerprints refuse nothing: loading does."""

NO_FILE = dataclasses.replace(ANY_SIZE, allow_local_files=False)
"""Only a file is refused, before it is looked at: the answer would tell whether it is there."""

REMEMBERED_FILES = 100_000
DIGEST_BYTES = 16
READ_BYTES = 1 << 20
DECODER_FRAMES = 16
"""Frames by which the clip of a decoder is known, besides its metadata."""


def fingerprint(item: Any, modality: Modality, *, local_files: bool = True) -> str:
    """Hash the content of an item.

    A file gives one key by path, `Path`, bytes or `{"bytes", "path"}`; an image in memory is keyed by its pixels, a
    recording by its samples and rate, a decoder by what it gives; a URL by its address.

    Args:
        item: A raw item.
        modality: What it is.
        local_files: Whether paths may be looked at, as the media policy says (`allow_local_files`).

    Returns:
        32 hexadecimal digits.

    Raises:
        MediaError: A file is not there.
        MediaRefusedError: It is a path, and `local_files` is False.
    """
    policy = ANY_SIZE if local_files else NO_FILE
    if modality == "text":
        text = str(item["text"] if isinstance(item, dict) else item)
        return _digest(b"text", text.encode(errors="surrogatepass"))
    if isinstance(modality, tuple) or modality == "message":
        return _of_structure(item, policy)
    value = item[modality] if isinstance(item, dict) and modality in item else item
    return _of_media(value, modality, policy)


def _digest(*parts: bytes) -> str:
    return _begun(*parts).hexdigest()


def _begun(*parts: bytes) -> "hashlib.blake2b":
    made = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        made.update(len(part).to_bytes(8, "little"))
        made.update(part)
    return made


def _of_pixels(image: Image.Image) -> str:
    """Key of what is seen: size, colours and, where there is any, transparency."""
    image = with_pixels(image)
    shown = image.convert("RGBA" if image.has_transparency_data else "RGB") if image.mode in ("P", "PA") else image
    transparent = shown.info.get("transparency") if shown.mode in ("1", "L", "RGB", "I;16") else None
    return _digest(b"pixels", f"{shown.mode} {shown.size} {transparent}".encode(), shown.tobytes())


def _of_media(item: Any, modality: str, policy: MediaPolicy) -> str:
    if isinstance(item, list):
        return _digest(b"list", *(_of_media(part, modality, policy).encode() for part in item))
    if isinstance(item, Image.Image):
        return _of_pixels(item)
    if isinstance(item, torch.Tensor):
        item = item.detach().cpu()
        item = (item.float() if item.dtype == torch.bfloat16 else item).numpy()  # NumPy has no bfloat16
    if isinstance(item, np.ndarray):
        return _digest(b"array", f"{item.dtype} {item.shape}".encode(), np.ascontiguousarray(item).tobytes())
    if isinstance(item, str) and item.startswith(("http://", "https://")):
        return _digest(b"address", item.encode())
    if isinstance(item, Mapping) and "array" in item:
        facts = repr(sorted((key, str(value)) for key, value in item.items() if key != "array"))
        values = item["array"]
        if isinstance(values, list | tuple):
            values = np.asarray(values)  # as arrays of the same numbers are keyed
        return _digest(b"array", facts.encode(), _of_media(values, modality, policy).encode())
    if hasattr(item, "get_all_samples"):
        decoded = item.get_all_samples()
        return _digest(
            b"samples", str(decoded.sample_rate).encode(), _of_media(decoded.data, modality, policy).encode()
        )
    if hasattr(item, "get_frames_at"):
        total = int(item.metadata.num_frames or 0)
        some = sorted({index * total // DECODER_FRAMES for index in range(DECODER_FRAMES)}) if total else []
        frames = np.ascontiguousarray(item.get_frames_at(some).data)
        return _digest(b"frames", repr(item.metadata).encode(), frames.tobytes())
    content = source(item, policy, modality)
    if isinstance(content, Path):
        status = content.stat()
        # The time of the last change cannot be set back, as that of the last writing can.
        return _of_file(str(content.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return _digest(b"file", content)


@functools.lru_cache(maxsize=REMEMBERED_FILES)
def _of_file(path: str, size: int, *changed: int) -> str:  # noqa: ARG001  # a changed file is another key
    made = _begun(b"file")
    made.update(size.to_bytes(8, "little"))
    with Path(path).open("rb") as file:
        while chunk := file.read(READ_BYTES):
            made.update(chunk)
    return made.hexdigest()


def _of_structure(value: Any, policy: MediaPolicy) -> str:
    """Key of dicts, lists and what they hold; media by content, the rest by its text."""
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind in MEDIA:  # a part of a message
            value = {"type": kind, kind: value.get(kind, value.get("url", value.get("path")))}
        parts = [
            f"{key}={_of_media(value[key], key, policy) if key in MEDIA else _of_structure(value[key], policy)}"
            for key in sorted(value)
        ]
        return _digest(b"dict", *(part.encode() for part in parts))
    if isinstance(value, list | tuple):
        return _digest(b"list", *(_of_structure(part, policy).encode() for part in value))
    return _digest(b"value", repr(value).encode())
