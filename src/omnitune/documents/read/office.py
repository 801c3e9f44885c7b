"""Documents of text as documents: their text is set on pages of A4 and drawn, so that they are like all others.

A page has an image, a text layer with type sizes and places of words, and the headings make an outline. What is drawn
is the text and no more: no pictures, columns or colours of the original.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from omnitune.documents.read.markup import Block, read_blocks
from omnitune.documents.read.pages import (
    Description,
    Line,
    OutlineEntry,
    Page,
    Rendering,
    Word,
    image_hash,
    store,
    uncovered,
)
from omnitune.documents.read.text import clean

WIDTH, HEIGHT, MARGIN = 595.0, 842.0, 56.0
"""Of a page of A4, in points."""

BODY = 10.5
HEADINGS = (20.0, 16.0, 13.5, 12.5, 12.5, 12.5)
"""Type size by level of heading, in points."""

LEADING, GAP = 1.35, 0.5
"""Height of a line, and of the space before a block, by type size."""


MOST_WORD = 100
"""Letters of a word that are set together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Set:
    """A line as it is set: its words with their left edges, on a page, all in points."""

    words: tuple[tuple[str, float], ...]
    top: float
    size: float
    face: str


@dataclass(slots=True, kw_only=True)
class _Layout:
    pages: list[list[_Set]] = field(default_factory=lambda: [[]])
    outline: list[OutlineEntry] = field(default_factory=list)


def describe(path: Path, rendering: Rendering | None = None) -> Description:  # noqa: ARG001
    """Count the pages that a text takes, and read its headings.

    Raises:
        DocumentError: It cannot be read, or has no text.
    """
    layout = _layout(path, path.stat().st_mtime_ns)
    title = layout.outline[0].title if layout.outline and layout.outline[0].level == 0 else ""
    return Description(pages=len(layout.pages), title=title, outline=tuple(layout.outline))


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Draw pages `start` to `stop - 1`, counted from 0; their images are stored in `folder`.

    Raises:
        DocumentError: It cannot be read.
    """
    layout = _layout(path, path.stat().st_mtime_ns)
    scale = rendering.scale(WIDTH, HEIGHT)
    size = (round(WIDTH * scale), round(HEIGHT * scale))
    for index in range(start, stop):
        image = Image.new("L", size, 255)
        canvas = ImageDraw.Draw(image)
        lines, words = list[Line](), list[Word]()
        for row in layout.pages[index]:
            font = _font(row.face, row.size * scale)
            for word, left in row.words:
                canvas.text((left * scale, row.top * scale), word, font=font, fill=0)
                right = left + _width(word, row.face, row.size)
                box = (left / WIDTH, row.top / HEIGHT, min(1.0, right / WIDTH), (row.top + LEADING * row.size) / HEIGHT)
                words.append(Word(text=word, box=box))
            text = " ".join(word for word, _ in row.words)
            lines.append(Line(text=text, size=row.size, bold=row.face == "Bold"))
        yield Page(
            number=index + 1,
            label="",
            image=store(image, folder),
            width=image.width,
            height=image.height,
            fingerprint=image_hash(image),
            text="\n".join(line.text for line in lines),
            lines=tuple(lines),
            words=tuple(words),
            uncovered=uncovered(image, words),
        )


@lru_cache(1)  # the jobs of one document follow one another
def _layout(path: Path, changed: int) -> _Layout:  # noqa: ARG001 - part of the key
    layout, top = _Layout(), MARGIN
    for block in read_blocks(path):
        if not block.text:
            if layout.pages[-1]:
                layout.pages.append([])
                top = MARGIN
            continue
        size, face = (HEADINGS[block.level - 1], "Bold") if block.level else (BODY, "Mono" if block.code else "")
        top += GAP * size if layout.pages[-1] and not block.code else 0.0
        for place, words in enumerate(_wrapped(block, face, size)):
            needed = LEADING * size * (3 if block.level and not place else 1)  # a heading does not end a page
            if top + needed > HEIGHT - MARGIN and layout.pages[-1]:
                layout.pages.append([])
                top = MARGIN
            if block.level and not place:
                entry = OutlineEntry(title=clean(block.text), level=block.level - 1, page=len(layout.pages))
                layout.outline.append(entry)
            layout.pages[-1].append(_Set(words=words, top=top, size=size, face=face))
            top += LEADING * size
    if not layout.pages[-1]:
        layout.pages.pop()
    return layout


def _wrapped(block: Block, face: str, size: float) -> Iterator[tuple[tuple[str, float], ...]]:
    """Words of a block line by line, with their left edges."""
    space, room = _width(" ", face, size), WIDTH - 2 * MARGIN
    left = space * (len(block.text) - len(block.text.lstrip())) if block.code else 0.0
    row: list[tuple[str, float]] = []
    for word in block.text.split():
        for part in _pieces(word, face, room / size):
            width = _width(part, face, size)
            if row and left + width > room:
                yield tuple(row)
                row, left = [], 0.0
            row.append((part, MARGIN + left))
            left += width + space
    if row:
        yield tuple(row)


def _pieces(word: str, face: str, room: float) -> Iterator[str]:
    """A word that is wider than a line, such as an address, in pieces that are not; `room` is for type of size 1."""
    while len(word) > MOST_WORD:  # Pillow measures no text of a million letters, such as the data of a picture
        yield from _pieces(word[:MOST_WORD], face, room)
        word = word[MOST_WORD:]
    while len(word) > 1 and _width(word, face, 1.0) > room:
        fits = max(1, int(len(word) * room / _width(word, face, 1.0)) - 1)
        yield word[:fits]
        word = word[fits:]
    yield word


def _width(word: str, face: str, size: float) -> float:
    """Width in points, measured large: a small font is hinted, so that its widths are whole pixels."""
    return _font(face, 256.0).getlength(word) * size / 256


@lru_cache(64)
def _font(face: str, size: float) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and more, no Chinese."""
    found = importlib.util.find_spec("matplotlib")  # not imported: a worker must start fast
    assert found is not None and found.origin is not None
    name = {"": "DejaVuSans", "Bold": "DejaVuSans-Bold", "Mono": "DejaVuSansMono"}[face]
    file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
