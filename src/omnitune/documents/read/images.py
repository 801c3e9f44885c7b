"""Image files as documents: a picture is a document of one page, a TIFF of as many pages as it has frames."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from omnitune.documents.read.media import POLICY, readable
from omnitune.documents.read.pages import Description, Page, Rendering, image_hash, store
from omnitune.inputs.image import decode_image, on_paper, open_image


def describe(path: Path, rendering: Rendering | None = None) -> Description:  # noqa: ARG001
    """Count the frames of a TIFF; every other image has one page.

    Raises:
        DocumentError: It is not an image that can be read.
    """
    with readable(path), open_image(path, POLICY) as image:
        return Description(pages=getattr(image, "n_frames", 1) if image.format == "TIFF" else 1)


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Make frames `start` to `stop - 1` pages, upright, on white paper, at most as large as `rendering` says.

    Raises:
        DocumentError: The image is cut off or damaged.
    """
    for index in range(start, stop):
        with readable(path), open_image(path, POLICY) as image:
            upright = on_paper(decode_image(image, path, POLICY, frame=index))
        scale = min(1.0, rendering.scale(*upright.size))
        size = (max(1, round(upright.width * scale)), max(1, round(upright.height * scale)))
        small = upright if size == upright.size else upright.resize(size, Image.Resampling.LANCZOS)
        yield Page(
            number=index + 1,
            label="",
            image=store(small, folder),
            width=small.width,
            height=small.height,
            fingerprint=image_hash(small),
        )
