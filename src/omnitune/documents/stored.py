"""A document that was read, as it is kept on disk: one file `documents/<key>.json`, its pages' files beside it."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from omnitune.documents.queries.captions import Caption
from omnitune.documents.read.headings import headings
from omnitune.documents.read.pages import Description, LostPage, OutlineEntry, Page, picture_of, write_words
from omnitune.documents.read.text import clean, printable
from omnitune.documents.read.worker import PagesRead
from omnitune.errors import DatasetError
from omnitune.folders import inside
from omnitune.io import read_json_or_none, writing

IMAGES = "images"
"""Folder of the images and segments of pages, in that of a dataset."""
LAYOUT_VERSION = 6
"""Raise it when what is stored of a page changes, so that everything is made again."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredPage:
    """A page as it is kept.

    Attributes:
        number: From 1.
        label: The number printed on it, the times of a segment ("0:30-0:45"), or "".
        image: File name in the image folder: of its image, or of a segment's recording (`.wav`) or clip (`.mp4`).
        fingerprint: Difference hash, "" for a page of one colour, or silence.
        text: Cleaned text layer, "" without one.
        headings: Lines set like headings, from the top.
        start: Second at which a segment begins; 0 of a page.
        end: Second at which it ends; 0 of a page.
        garbled: Share of the letters of the text layer that stand for nothing, 0 to 1.
        uncovered: Share of the ink of the page outside of the words of its text layer, 0 to 1.
        recognised: Whether `text` was recognised on the image instead of taken from the text layer; never on disk.
    """

    number: int
    label: str
    image: str
    fingerprint: str
    text: str
    headings: tuple[str, ...] = ()
    start: float = 0.0
    end: float = 0.0
    garbled: float = 0.0
    uncovered: float = 0.0
    recognised: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document that was read.

    Attributes:
        name: Path inside the folder, with forward slashes, fit to be printed.
        key: Hash of its content and of the rendering.
        title: By its own metadata, or "".
        outline: In reading order.
        pages: All that could be read, in order.
        lost: Pages that could not be read.
        captions: What people wrote about a recording or clip: the chapters in its file, then what lies beside it.
        drawn_by: Of an office file, the version of LibreOffice that drew its pages; "" where we did.
        fallback: Why LibreOffice did not draw them though it is there, or "".
    """

    name: str
    key: str
    title: str
    outline: tuple[OutlineEntry, ...]
    pages: tuple[StoredPage, ...]
    lost: tuple[LostPage, ...] = ()
    captions: tuple[Caption, ...] = ()
    drawn_by: str = ""
    fallback: str = ""


def save_document(
    store: Path,
    key: str,
    name: str,
    described: Description,
    read: PagesRead,
    *,
    drawn_by: str = "",
    fallback: str = "",
) -> Document:
    """Keep a document that was read; its marker is written last."""
    pages = sorted(read.pages, key=lambda page: page.number)
    lost = sorted(read.lost, key=lambda one: one.number)
    if described.claimed:
        first = described.pages + 1
        reason = f"page {first}: the file says it has {described.claimed:,} pages, {described.pages:,} are there"
        lost.append(LostPage(number=first, reason=reason))
    for page in pages:
        if page.words:
            write_words(page.words, page.image, store / IMAGES)
    document = Document(
        name=name,
        key=key,
        title=described.title,
        outline=described.outline,
        pages=tuple(kept_page(page, lines) for page, lines in zip(pages, headings(pages), strict=True)),
        lost=tuple(LostPage(number=one.number, reason=printable(one.reason)) for one in lost),
        captions=tuple(Caption(text=title, start=start, end=end) for title, start, end in described.chapters),
        drawn_by=drawn_by,
        fallback=fallback,
    )
    kept = dataclasses.asdict(document)
    del kept["name"], kept["key"]
    with writing(store / "documents" / f"{key}.json") as temporary:
        temporary.write_text(json.dumps(kept), encoding="utf-8")
    return document


def kept_page(page: Page, lines: Sequence[str]) -> StoredPage:
    """Turn a page as read into one as kept, with the lines that are headings."""
    return StoredPage(
        number=page.number,
        label=page.label,
        image=page.image,
        fingerprint=page.fingerprint,
        text=clean(page.text),
        headings=tuple(lines),
        start=page.start,
        end=page.end,
        garbled=round(page.garbled, 3),
        uncovered=round(page.uncovered, 3),
    )


def stored_document(store: Path, key: str, name: str) -> Document | None:
    """The document that is kept under a key; None where it is not done: no whole marker, or an image that is gone."""
    kept = read_json_or_none(store / "documents" / f"{key}.json")
    try:
        document = Document(
            name=name,
            key=key,
            title=kept["title"],
            outline=tuple(OutlineEntry(**entry) for entry in kept["outline"]),
            pages=tuple(StoredPage(**{**page, "headings": tuple(page["headings"])}) for page in kept["pages"]),
            lost=tuple(LostPage(**one) for one in kept["lost"]),
            captions=tuple(Caption(**one) for one in kept["captions"]),
            drawn_by=kept.get("drawn_by", ""),
            fallback=kept.get("fallback", ""),
        )
        files = {file for page in document.pages for file in (page.image, picture_of(page.image))}
        whole = bool(files) and all(inside(store / IMAGES, file).stat().st_size for file in files)
    except (TypeError, KeyError, AttributeError, OSError, DatasetError):
        return None
    return document if whole else None
