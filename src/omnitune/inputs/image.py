"""Images in every form that inputs give them, opened within the media policy's limits.

A header is read before pixels are: the size of an image costs no decoding, and one that is too large is never decoded.
"""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from omnitune.errors import MediaError, MediaRefusedError
from omnitune.inputs.policy import MediaPolicy
from omnitune.inputs.source import described, is_tensor, source

BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AssertionError, AttributeError,
    NotImplementedError, struct.error,
)  # fmt: skip
"""Errors that Pillow's readers raise on a damaged file."""

MOST_SCANNED = 4_000_000_000
"""Pixels of a JPEG times its scans: each scan of a progressive one passes over all pixels, and a file of some kilobytes
may hold thousands. A photograph has about ten scans."""

BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def load_image(item: Any, policy: MediaPolicy, max_ratio: float | None = None) -> Image.Image:
    """A decoded image, 8 bits a channel.

    What is decoded here is turned upright by its metadata, as `datasets` does it; a PIL image stays as it is given.

    Args:
        item: PIL image, path, bytes, `{"bytes", "path"}`, `{"image": ...}`, http(s) or data URL, or an array or tensor
            `(height, width)`, `(height, width, channels)` or `(channels, height, width)`, integers in 0..255 or
            floats in 0..1.
        policy: Limits.
        max_ratio: Longer side over shorter side above which the model's processor would make too much of an image.

    Raises:
        MediaError: It is no image, or is truncated; the message names it.
        MediaNotFoundError: Nothing is at the path.
        MediaRefusedError: It breaks the policy, or is too long.

    Example:
        >>> load_image("page.png", MediaPolicy()).size
        (900, 1273)
    """
    if isinstance(item, dict) and "image" in item:
        return load_image(item["image"], policy, max_ratio)
    if isinstance(item, Image.Image):
        _check_pixels(item.size, item, policy)
        check_ratio(*item.size, described(item), max_ratio)
        return eight_bit(with_pixels(item))
    if isinstance(item, np.ndarray) or is_tensor(item):
        height, width = _height_and_width(item)
        check_ratio(width, height, described(item), max_ratio)
        _check_pixels((width, height), item, policy)
        values = _bytes_of(item)
        if values.ndim == 3 and values.shape[-1] not in (1, 3, 4):
            values = values.transpose(1, 2, 0)
        if values.ndim == 3 and values.shape[-1] == 1:
            values = values[..., 0]
        return Image.fromarray(np.ascontiguousarray(values))
    with open_image(item, policy) as opened:  # the file is closed, the pixels stay
        check_ratio(*opened.size, described(item), max_ratio)
        return decode_image(opened, item, policy)


def with_pixels(image: Image.Image) -> Image.Image:
    """Decode an image of the caller's in place, where it is not yet.

    Raises:
        MediaError: It is truncated, or was closed.
    """
    try:
        image.load()
    except BROKEN as error:
        raise MediaError(f"{described(image)}: broken image: {error}") from error
    return image


def check_ratio(width: int, height: int, name: str, max_ratio: float | None) -> None:
    """Refuse an image or clip that is too long for its width.

    A processor that scales the shorter side to 224 pixels would make 224 x 44,800,000 of an image of 1 x 200,000.

    Raises:
        MediaRefusedError: It is.
    """
    ratio = max(width, height) / max(1, min(width, height))
    if max_ratio is not None and ratio > max_ratio:
        raise MediaRefusedError(
            f"{name}: {width}x{height} pixels, expected a longer side of at most {max_ratio:g} times the shorter one, "
            f"as the model's processor scales by the shorter; got {ratio:.0f} times"
        )


def image_size(item: Any, policy: MediaPolicy) -> tuple[int, int]:
    """Width and height in pixels, from the header alone: as stored, before the image is turned upright.

    Raises:
        MediaError: As `load_image`, but for pixels that are missing or broken.
    """
    if isinstance(item, Image.Image):
        return item.size
    if isinstance(item, np.ndarray) or is_tensor(item):
        height, width = _height_and_width(item)
        return width, height
    if isinstance(item, dict) and "image" in item:
        return image_size(item["image"], policy)
    with open_image(item, policy) as opened:
        return opened.size


def eight_bit(image: Image.Image) -> Image.Image:
    """An image of wide integers or floats in mode `L`, of the same contrast; another one as it is.

    A scan of 16 bits would otherwise be cut at 255, which leaves a white page. Numbers that are not finite become
    black, like the places without a measurement that they stand for.

    Raises:
        MediaError: None of its numbers is finite.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.array(image, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        if not finite.any():
            raise MediaError(f"{described(image)}: expected pixels that are numbers, got none that is finite")
        values[~finite] = 0
    steps = (1.0, 255.0) if image.mode == "F" else (255.0, 1023.0, 4095.0, 16383.0, 65535.0)  # sensors of 10 to 16 bits
    peak = next((top for top in steps if values.max() <= top), values.max())
    return Image.fromarray((values.clip(0) * 255 / peak).astype(np.uint8))


def on_paper(image: Image.Image) -> Image.Image:
    """An image without transparency, in mode `RGB`: what is transparent is white, as paper is under a drawing."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    drawn = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")


def open_image(item: Any, policy: MediaPolicy) -> Image.Image:
    """Read the header of an encoded image; pixels are decoded by `decode_image`, and the caller closes it.

    Args:
        item: Path, bytes, `{"bytes", "path"}`, http(s) or data URL.
        policy: Limits.

    Raises:
        MediaError: It is no image that can be read.
        MediaRefusedError: It breaks the policy.
    """
    content = source(item, policy)
    try:
        opened = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)
    except UnidentifiedImageError as error:
        raise MediaError(f"{described(item)}: not an image that can be read") from error
    except BOMBS as error:
        raise MediaRefusedError(f"{described(item)}: too many pixels: {error}") from error
    except BROKEN as error:
        raise MediaError(f"{described(item)}: broken image: {error}") from error
    try:
        if opened.format == "EPS":  # a program, for which Pillow starts Ghostscript
            raise MediaRefusedError(f"{described(item)}: PostScript, which is not run; give a PNG or JPEG of it")
        _check_pixels(opened.size, item, policy)
        if opened.format in ("JPEG", "MPO"):
            # Where it does not begin a scan, the byte 255 of a picture is followed by a zero.
            scans = (content if isinstance(content, bytes) else content.read_bytes()).count(b"\xff\xda")
            if scans * opened.width * opened.height > MOST_SCANNED:
                raise MediaRefusedError(
                    f"{described(item)}: a JPEG of {opened.width}x{opened.height} pixels in {scans} scans, which takes "
                    "minutes to decode; save it again"
                )
    except MediaError:
        opened.close()
        raise
    return opened


def decode_image(opened: Image.Image, item: Any, policy: MediaPolicy, *, frame: int = 0) -> Image.Image:
    """Decode an image that `open_image` opened: upright by its metadata, 8 bits a channel.

    Args:
        opened: Its header.
        item: What it was opened from, for messages.
        policy: Limits.
        frame: Which of several frames, such as the pages of a TIFF.

    Raises:
        MediaError: It is truncated or broken.
        MediaRefusedError: The frame has more pixels than the policy allows.
    """
    try:
        opened.seek(frame)
        _check_pixels(opened.size, item, policy)  # each frame has a size of its own
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
        _check_pixels(opened.size, item, policy)  # what an icon holds may be larger than it says
        return eight_bit(opened)
    except BOMBS as error:
        raise MediaRefusedError(f"{described(item)}: too many pixels: {error}") from error
    except MediaError as error:
        raise error if str(error).startswith(described(item)) else MediaError(f"{described(item)}: {error}") from error
    except BROKEN as error:
        raise MediaError(f"{described(item)}: broken image: {error}") from error


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


def _bytes_of(array: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The values of an array as 0..255."""
    if is_tensor(array):
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
