"""Image files as documents: a picture is a document of one page, a TIFF of as many pages as it has frames."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from omnitune.documents.read.pages import Description, Page, Rendering, look, store
from omnitune.errors import DocumentError


def describe(path: Path, rendering: Rendering | None = None) -> Description:  # noqa: ARG001
    """Number of frames of a TIFF, 1 for every other image.

    Raises:
        DocumentError: It is not an image that can be read.
    """
    with _opened(path) as image:
        return Description(pages=getattr(image, "n_frames", 1) if image.format == "TIFF" else 1)


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Frames `start` to `stop - 1` as pages, upright, at most as large as `rendering` says.

    Raises:
        DocumentError: The image is cut off or damaged.
    """
    for index in range(start, stop):
        with _opened(path) as image:
            try:
                image.seek(index)
                upright = ImageOps.exif_transpose(image).convert("RGB")
            except (OSError, SyntaxError, EOFError) as error:
                raise DocumentError(f"{path.name}: the image is damaged ({error})") from error
        scale = min(1.0, rendering.scale(*upright.size))
        size = (max(1, round(upright.width * scale)), max(1, round(upright.height * scale)))
        small = upright if size == upright.size else upright.resize(size, Image.Resampling.LANCZOS)
        yield Page(
            number=index + 1,
            label="",
            image=store(small, folder),
            width=small.width,
            height=small.height,
            look=look(small),
        )


def _opened(path: Path) -> Image.Image:
    if path.stat().st_size == 0:
        raise DocumentError(f"{path.name}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DocumentError(f"{path.name}: more pixels than an image may have ({error})") from error
    except (OSError, SyntaxError) as error:
        raise DocumentError(f"{path.name}: not an image that can be read ({error})") from error
