"""Images in every form that inputs give them, opened within the media policy's limits.

A header is read before pixels are: the size of an image costs no decoding, and one that is too large is never decoded.
"""

import base64
import binascii
import io
import os
import struct
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from omnitune.errors import MediaError, MediaNotFoundError, MediaRefusedError
from omnitune.inputs.download import download
from omnitune.inputs.policy import MediaPolicy

EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".tif", ".webp")

BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, struct.error)
"""What Pillow's readers raise on a damaged file."""


def load_image(item: Any, policy: MediaPolicy) -> Image.Image:
    """A decoded image, 8 bits a channel.

    What is decoded here is turned upright by its metadata, as `datasets` does it; a PIL image stays as it is given.

    Args:
        item: PIL image, path, bytes, `{"bytes", "path"}`, `{"image": ...}`, http(s) or data URL, or an array or tensor
            `(height, width)`, `(height, width, channels)` or `(channels, height, width)`, integers in 0..255 or
            floats in 0..1.
        policy: Limits.

    Raises:
        MediaError: It is no image, or is truncated; the message names it.
        MediaNotFoundError: Nothing is at the path.
        MediaRefusedError: It breaks the policy.
    """
    if isinstance(item, Image.Image):
        _check_pixels(item.size, item, policy)
        return eight_bit(_decoded(item, item))
    if isinstance(item, np.ndarray | torch.Tensor):
        return _from_array(item, policy)
    if isinstance(item, dict) and "image" in item:
        return load_image(item["image"], policy)
    with _opened(item, policy) as opened:  # the file is closed, the pixels stay
        return eight_bit(_decoded(opened, item, upright=True))


def image_size(item: Any, policy: MediaPolicy) -> tuple[int, int]:
    """Width and height in pixels, from the header alone: as stored, before the image is turned upright.

    Raises:
        MediaError: As `load_image`, but for pixels that are missing or broken.
    """
    if isinstance(item, Image.Image):
        return item.size
    if isinstance(item, np.ndarray | torch.Tensor):
        height, width = _height_and_width(item)
        return width, height
    if isinstance(item, dict) and "image" in item:
        return image_size(item["image"], policy)
    with _opened(item, policy) as opened:
        return opened.size


def image_bytes(item: Any, policy: MediaPolicy) -> bytes | Path:
    """The encoded image: its bytes, or the path of its file.

    Raises:
        MediaError: There is none: wrong type, empty, or it cannot be reached.
    """
    if isinstance(item, bytes | bytearray | memoryview):
        return _limited(bytes(item), item, policy)
    if isinstance(item, dict):
        if item.get("bytes") is not None:
            return _limited(bytes(item["bytes"]), item, policy)
        if item.get("path") is not None:
            return image_bytes(item["path"], policy)
    if isinstance(item, str) and item.startswith("data:"):
        return _limited(_from_data_url(item), item, policy)
    if isinstance(item, str) and item.startswith(("http://", "https://")):
        return download(item, policy)
    if isinstance(item, str | os.PathLike):
        return _file(local_path(item), policy)
    raise MediaError(
        f"{described(item)}: expected an image as PIL, path, bytes, {{'bytes', 'path'}}, URL, array or tensor, "
        f"got {type(item).__name__}"
    )


def local_path(item: str | os.PathLike[str]) -> Path:
    """The path that `item` names, with `~` as the home folder where there is such a user."""
    return Path(os.path.expanduser(item))


def eight_bit(image: Image.Image) -> Image.Image:
    """An image of wide integers or floats in mode `L`, of the same contrast; another one as it is.

    A scan of 16 bits would otherwise be cut at 255, which leaves a white page.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    steps = (1.0 if image.mode == "F" else 255.0, 255.0, 65535.0)
    peak = next((top for top in steps if values.max() <= top), values.max())
    return Image.fromarray((values.clip(0) * 255 / peak).astype(np.uint8))


def described(item: Any) -> str:
    """A short name of an item for a message: its path or address where it has one."""
    if isinstance(item, np.ndarray | torch.Tensor):
        return f"array of shape {tuple(item.shape)}"
    if isinstance(item, dict):
        path = item.get("path")
        return (
            described(path)
            if path
            else f"image of {len(item['bytes'])} bytes"
            if item.get("bytes")
            else repr(item)[:80]
        )
    if isinstance(item, bytes | bytearray | memoryview):
        return f"image of {len(item)} bytes"
    if isinstance(item, Image.Image):
        return f"{type(item).__name__} of {item.width}x{item.height} pixels"
    text = str(item) if isinstance(item, str | os.PathLike) else repr(item)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _opened(item: Any, policy: MediaPolicy) -> Image.Image:
    source = image_bytes(item, policy)
    try:
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError as error:
        raise MediaError(f"{described(item)}: not an image that can be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaRefusedError(f"{described(item)}: too many pixels: {error}") from error
    except BROKEN as error:
        raise MediaError(f"{described(item)}: broken image: {error}") from error
    try:
        if opened.format == "EPS":  # a program, for which Pillow starts Ghostscript
            raise MediaRefusedError(f"{described(item)}: PostScript, which is not run; give a PNG or JPEG of it")
        _check_pixels(opened.size, item, policy)
    except MediaError:
        opened.close()
        raise
    return opened


def _decoded(image: Image.Image, item: Any, *, upright: bool = False) -> Image.Image:
    try:
        image.load()
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
    except BROKEN as error:
        raise MediaError(f"{described(item)}: broken image: {error}") from error
    return image


def _file(path: Path, policy: MediaPolicy) -> Path:
    if not policy.allow_local_files:
        raise MediaRefusedError(f"{path}: the media policy forbids local files (allow_local_files=False)")
    try:
        size = path.stat().st_size
    except PermissionError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise MediaNotFoundError(f"{path}: no such file ({error}); working folder {Path.cwd()}") from error
    if not path.is_file():
        raise MediaError(f"{path}: expected a file, got a folder or device")
    if size > policy.max_bytes:
        raise MediaRefusedError(f"{path}: {size} bytes, more than the media policy's max_bytes={policy.max_bytes}")
    return path


def _limited(content: bytes, item: Any, policy: MediaPolicy) -> bytes:
    if not content:
        raise MediaError(f"{described(item)}: empty")
    if len(content) > policy.max_bytes:
        raise MediaRefusedError(
            f"{described(item)}: {len(content)} bytes, more than the media policy's max_bytes={policy.max_bytes}"
        )
    return content


def _from_data_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    try:
        content = unquote_to_bytes(body)
        return base64.b64decode(content, validate=True) if head.endswith(";base64") else content
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{described(url)}: its base64 is broken: {error}") from error


def _check_pixels(size: tuple[int, int], item: Any, policy: MediaPolicy) -> None:
    width, height = size
    if not width or not height:
        raise MediaError(f"{described(item)}: it has no pixels")
    if width * height > policy.max_pixels:
        raise MediaRefusedError(
            f"{described(item)}: {width}x{height} pixels, more than the media policy's max_pixels={policy.max_pixels}"
        )


def _height_and_width(array: Any) -> tuple[int, int]:
    shape = tuple(array.shape)
    if 0 in shape:
        raise MediaError(f"{described(array)}: it has no pixels")
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and shape[-1] in (1, 3, 4):
        return shape[0], shape[1]
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return shape[1], shape[2]
    raise MediaError(
        f"{described(array)}: expected (height, width), (height, width, channels) or (channels, height, width)"
    )


def _from_array(array: Any, policy: MediaPolicy) -> Image.Image:
    height, width = _height_and_width(array)
    _check_pixels((width, height), array, policy)
    values = _bytes_of(array)
    if values.ndim == 3 and values.shape[-1] not in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    return Image.fromarray(np.ascontiguousarray(values))


def _bytes_of(array: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The values of an array as 0..255."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    if array.dtype == np.uint8:
        return np.asarray(array)
    top = {"f": 1, "b": 1, "i": 255, "u": 255}.get(array.dtype.kind)
    if top is None:
        raise MediaError(f"{described(array)}: expected integers or floats, got {array.dtype}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= top):
        raise MediaError(
            f"{described(array)}: expected pixels as integers in 0..255 or floats in 0..1, "
            f"got {array.dtype} from {low} to {high}"
        )
    return np.asarray((array * 255.0).round() if top == 1 else array).astype(np.uint8)
