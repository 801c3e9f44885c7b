"""The pages found for a query, side by side, as one HTML file to look at."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from omnitune.errors import InputError
from omnitune.inputs.image import load_image, on_paper
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.io import writing
from omnitune.ops.bm25 import words as words_of
from omnitune.report.html import render_sheet
from omnitune.report.parts import PAGE_WORDS, Page, Words
from omnitune.retrieval.base import Found

_WIDTH = 520
_QUALITY = 72


def write_contact_sheet(
    path: str | Path,
    *,
    query: str,
    model: str,
    found: Sequence[Found],
    images: Sequence[Any],
    excerpts: Sequence[str] = (),
    words: Words = PAGE_WORDS,
) -> Path:
    """Write a self-contained HTML page with a thumbnail and the score of every page found.

    Args:
        path: The HTML file.
        query: What was looked for.
        model: Name of the model that looked.
        found: The pages, best first; entries have an `id`, and may have a `document`, a `page` number and `times`.
        images: Their images in any accepted form, in the same order; None where there is none.
        excerpts: Part of each page's text that answers; words of the query are marked in it. Empty shows none.
        words: What pages are called.

    Returns:
        `path`.

    Raises:
        InputError: There is not one image, or excerpt, for each page found.
        MediaError: An image cannot be read.
        ResourceError: The disk is full.
    """
    if len(images) != len(found):
        raise InputError(f"images: expected one for each of {len(found)} pages found, got {len(images)}")
    if excerpts and len(excerpts) != len(found):
        raise InputError(f"excerpts: expected one for each of {len(found)} pages found, or none, got {len(excerpts)}")
    pages = []
    for hit, image, excerpt in zip(found, images, excerpts or [""] * len(found), strict=True):
        name = str(hit.entry["id"])
        page = Page(
            id=name,
            document=str(hit.entry.get("document", name)),
            number=int(hit.entry.get("page", 1)),
            image=b"" if image is None else thumbnail(load_image(image, DEFAULT_POLICY)),
            times=str(hit.entry.get("times", "")),
            read=excerpt,
        )
        pages.append((page, hit.score))
    path = Path(path)
    with writing(path) as temporary:
        made = render_sheet(query=query, model=model, pages=pages, wanted=set(words_of(query)), words=words)
        temporary.write_text(made, encoding="utf-8")
    return path


def thumbnail(image: Image.Image, width: int = _WIDTH) -> bytes:
    """A JPEG of the image, at most `width` pixels wide."""
    small = on_paper(image)
    small.thumbnail((width, 4 * width))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
