"""A document as its reader gives it: a description, then its pages, one file each.

A page of a recording or a clip is a segment of it, and its file a small recording or clip; beside that lies a picture
of it under the same hash, for people to look at.

Page images are stored under the SHA-256 of their bytes, so that a page that occurs twice is stored once and a page that
is made again lands on itself. They are PNG: on nine manuals rendered 900 pixels wide a grey PNG takes 83 kB and loses
nothing, a JPEG of quality 85 takes 137 kB and blurs the letters. Only a page that PNG cannot pack (a scan, a
photograph) becomes a JPEG of quality 90.
"""

import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

import numpy as np
from PIL import Image, ImageChops

from omnitune.io import read_json_or_none, writing

PNG_BYTES_PER_PIXEL = 0.5
"""Above this a PNG holds a photograph rather than print (print takes 0.02 to 0.2)."""

PNG_LEVEL = 3
"""Takes two thirds of the time of the usual level 6; coloured pages take 165 kB instead of 196, grey ones 83 for 76."""

BLANK = 8
"""An image whose shades differ by less than this of 255 has nothing on it."""

DIFFERENCE_SIDE = 16
"""Side of the difference hash: 16 x 16 = 256 bits; with 8 x 8 all scanned pages of running text look alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """Settings of how a document becomes pages.

    Attributes:
        width: Width of the image in pixels; images that are files already, and clips, are made smaller, never larger.
        max_pixels: Most pixels of one page image; a page that would have more is rendered smaller.
        segments: Where a recording or clip is cut, one of its kind's ways.
        seconds: Longest segment.
        boundaries: Seconds at which the segments of one document begin, and its end, as its description has them.
        office: `"auto"` has LibreOffice draw office files where it is installed, `"drawn"` draws their text.
        conversion: Of one office file, the LibreOffice that converts it and the PDF to write.
    """

    width: int = 900
    max_pixels: int = 4_000_000
    segments: str = ""
    seconds: float = 15.0
    boundaries: tuple[float, ...] = ()
    office: Literal["auto", "drawn"] = "auto"
    conversion: tuple[str, ...] = ()

    def scale(self, width: float, height: float) -> float:
        """Factor from page units to pixels for a page of this width and height."""
        return min(self.width / width, math.sqrt(self.max_pixels / (width * height)))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlineEntry:
    """One line of a document's outline (bookmarks).

    Attributes:
        title: As written, numbering included.
        level: 0 for the outermost.
        page: Number of the page it leads to, from 1; None where it leads nowhere.
    """

    title: str
    level: int
    page: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Facts about a document before its pages are made.

    Attributes:
        pages: Number of pages that are there, at least 1.
        title: Its title by its own metadata, or "".
        outline: In reading order.
        boundaries: Of a recording or clip, the seconds at which its segments begin, and its end.
        claimed: Number of pages by its own count, where that is more than are there; else 0.
        chapters: Of a recording or clip, the titles of its chapters and the seconds at which they begin and end.
    """

    pages: int
    title: str = ""
    outline: tuple[OutlineEntry, ...] = ()
    boundaries: tuple[float, ...] = ()
    claimed: int = 0
    chapters: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the text layer, with how it is set.

    Attributes:
        text: The line.
        size: Height of its letters in page units.
        bold: Whether it is set in a bold face throughout.
    """

    text: str
    size: float
    bold: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One word and where it stands on its page.

    Attributes:
        text: The word, with the punctuation around it.
        box: Left, top, right and bottom as fractions of the width and height of the page's image.
    """

    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page as a reader makes it.

    Attributes:
        number: From 1.
        label: The number printed on it ("iv", "12"), the times of a segment ("0:30-0:45"), or "".
        image: File name of its image, or of a segment's recording or clip, in the image folder.
        width: Of the image or the frames, in pixels; 0 of a recording.
        height: Of the image or the frames, in pixels; 0 of a recording.
        fingerprint: Difference hash of the image, 64 hex digits, or several; "" for a page of one colour, or silence.
        text: Its text layer as the document has it; "" without one.
        lines: The text layer line by line with its type sizes.
        words: The text layer word by word with their places.
        garbled: Share of the letters of the text layer that stand for nothing (no code, private use), 0 to 1.
        uncovered: Share of the ink of the page outside of `words`, 0 to 1.
        start: Second at which a segment begins; 0 of a page.
        end: Second at which it ends; 0 of a page.
    """

    number: int
    label: str
    image: str
    width: int
    height: int
    fingerprint: str
    text: str = ""
    lines: tuple[Line, ...] = ()
    words: tuple[Word, ...] = ()
    garbled: float = 0.0
    uncovered: float = 0.0
    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LostPage:
    """A page that could not be read, while others of its document could.

    Attributes:
        number: From 1.
        reason: Why, beginning with its number: "page 3: reading it takes longer than 60 s".
    """

    number: int
    reason: str


class Reader(Protocol):
    """A module that reads one kind of document, with these as module-level functions."""

    def describe(self, path: Path, rendering: Rendering) -> Description:
        """Page count, title and outline, or where it is cut.

        Raises:
            DocumentError: The file cannot be opened, or has no pages.
        """

    def pages(self, path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
        """Make pages `start` to `stop - 1`, counted from 0, one after another; their files are stored in `folder`.

        Raises:
            DocumentError: The next page cannot be read. The caller asks again for those after it.
        """


def store(image: Image.Image, folder: Path) -> str:
    """Write an image under the hash of its bytes; returns its file name inside `folder`."""
    return keep(*encode(image), folder)


def keep(data: bytes, suffix: str, folder: Path) -> str:
    """Write a file under the hash of its bytes; returns its name inside `folder`."""
    digest = hashlib.sha256(data).hexdigest()
    name = f"{digest[:2]}/{digest}{suffix}"
    _write(data, folder / name)
    return name


def keep_segment(data: bytes, suffix: str, picture: Image.Image, folder: Path) -> str:
    """Write a recording or clip as `keep` does, and the picture of it; returns the name of the former."""
    name = keep(data, suffix, folder)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=85)
    _write(buffer.getvalue(), folder / picture_of(name))
    return name


def picture_of(image: str) -> str:
    """File name of what people look at: of a page its image itself."""
    path = PurePosixPath(image)
    return str(path.with_suffix(".jpg")) if path.suffix in (".wav", ".mp4") else image


def write_words(words: Sequence[Word], image: str, folder: Path) -> None:
    """Keep the words of a page beside its image, `[["word", left, top, right, bottom], ...]` in fractions of it."""
    rows = [[word.text, *(round(edge, 4) for edge in word.box)] for word in words]
    with writing(folder / words_of(image)) as temporary:
        temporary.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8", errors="replace")


def read_words(image: str, folder: Path) -> tuple[Word, ...]:
    """Read what `write_words` kept; empty where there is nothing, or what is there is damaged."""
    try:
        rows = read_json_or_none(folder / words_of(image)) or []
        return tuple(Word(text=str(row[0]), box=tuple(float(edge) for edge in row[1:5])) for row in rows)  # type: ignore[arg-type]  # four of them
    except (TypeError, ValueError, IndexError):
        return ()


def words_of(image: str) -> str:
    """Name the file that holds the words of a page image: `ab/ab12.png` has `ab/ab12.words.json`."""
    return str(PurePosixPath(image).with_suffix(".words.json"))


def _write(data: bytes, target: Path) -> None:
    if not target.exists() or not target.stat().st_size:
        with writing(target) as temporary:
            temporary.write_bytes(data)


def encode(image: Image.Image) -> tuple[bytes, str]:
    """Bytes and suffix of a page image: grey where it is grey, PNG unless it is a photograph."""
    image = to_grey(image.convert("RGB"))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=PNG_LEVEL)
    if buffer.tell() <= PNG_BYTES_PER_PIXEL * image.width * image.height:
        return buffer.getvalue(), ".png"
    photograph = io.BytesIO()
    image.save(photograph, format="JPEG", quality=90)
    return photograph.getvalue(), ".jpg"


def to_grey(image: Image.Image) -> Image.Image:
    """An RGB image as one channel if its three are equal everywhere, else unchanged."""
    red, green, blue = image.split()
    coloured = ImageChops.difference(red, green).getbbox() or ImageChops.difference(green, blue).getbbox()
    return image if coloured else red


def uncovered(image: Image.Image, words: Sequence[Word]) -> float:
    """Measure which share of the ink of a page lies outside of its words, 0 to 1; 0 of an empty page."""
    side = 128
    ink = 255 - np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX), dtype=np.int32)
    ink[ink < BLANK] = 0
    total = int(ink.sum())
    for word in words:
        left, top, right, bottom = (math.floor(edge * side) for edge in word.box)
        ink[max(0, top - 1) : bottom + 2, max(0, left - 1) : right + 2] = 0
    return int(ink.sum()) / total if total else 0.0


def image_hash(image: Image.Image) -> str:
    """Difference hash: for each cell of a small grid, whether it is darker than its right neighbour.

    Returns:
        64 hex digits, or "" for an image without anything on it.
    """
    grey = image.convert("L")
    shades = np.asarray(grey)
    if int(shades.max()) - int(shades.min()) < BLANK:
        return ""
    cells = np.asarray(grey.resize((DIFFERENCE_SIDE + 1, DIFFERENCE_SIDE), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes().hex()
