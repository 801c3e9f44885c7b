"""PDF documents through pypdfium2: page images, text layer with type sizes and places of words, outline, page labels.

PDFium is neither safe to call from two threads nor safe against every broken file, so `worker` runs this module in
processes of their own.
"""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium

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
from omnitune.errors import DocumentError

REASONS = {
    pdfium.FPDF_ERR_FILE: "it has no pages",  # what `_opened` leaves there, where PDFium itself gives no reason
    pdfium.FPDF_ERR_FORMAT: "not a PDF, or a damaged one",
    pdfium.FPDF_ERR_PASSWORD: "encrypted: it needs a password",
    pdfium.FPDF_ERR_SECURITY: "encrypted in a way that is not supported",
}
ROUND_DOWN = 1 - 1e-6
"""PDFium rounds a bitmap's width up, so 900.0000001 would become 901."""
BOLD_WEIGHT = 600
BOLD_NAMES = ("bold", "black", "heavy", "cmbx", "semibold")
NO_LETTER = frozenset((0, 0xFFFD, 0xFFFF))
MOST_PAGES = 50_000
"""A page tree of 0.2 MB can name one page 30,000 times, and nested ones a million times."""
MOST_ENTRIES = 100_000
"""Of an outline."""
MOST_LETTERS = 1_000_000
"""Of one page: 300 times a full one."""
MISSING_IN_A_ROW = 100
"""So many pages in a row that are not there are the end of a document whose count says more."""
SHOWN_ANNOTATIONS = (pdfium.FPDF_ANNOT_WIDGET, pdfium.FPDF_ANNOT_FREETEXT, pdfium.FPDF_ANNOT_STAMP)
"""Annotations whose text a reader of the page sees: form fields, typed notes, stamps."""


def describe(path: Path, rendering: Rendering | None = None) -> Description:  # noqa: ARG001
    """Count the pages that are there, and read title and outline of a PDF.

    Raises:
        DocumentError: It is empty, broken or encrypted, or has no pages, or too many.
    """
    with opened(path) as document:
        claimed = len(document)
        found = _last_page(document, min(claimed, MOST_PAGES + 1))
        if not found:
            raise DocumentError(f"{path.name}: none of its {claimed:,} pages can be loaded")
        if found > MOST_PAGES:
            raise DocumentError(f"{path.name}: expected at most {MOST_PAGES:,} pages, got {claimed:,}; split it")
        try:
            title = document.get_metadata_value("Title").strip()
        except UnicodeDecodeError:
            title = ""
        return Description(
            pages=found,
            title=title,
            outline=tuple(_outline(document)),
            claimed=claimed if claimed > found else 0,
        )


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Make pages `start` to `stop - 1`, counted from 0; their images are stored in `folder`.

    Raises:
        DocumentError: The PDF cannot be opened, or the next page cannot be loaded.
    """
    with opened(path) as document:
        document.init_forms()  # before any page is loaded, or the values of form fields are not drawn
        for index in range(start, stop):
            try:
                label = document.get_page_label(index)
            except UnicodeDecodeError:
                label = ""
            try:
                yield _page(document, index, label, folder, rendering)
            except pypdfium2.PdfiumError as error:
                raise DocumentError(f"{path.name}: page {index + 1} cannot be loaded ({error})") from error


def _page(document: pypdfium2.PdfDocument, index: int, label: str, folder: Path, rendering: Rendering) -> Page:
    page = document[index]
    width, height = page.get_size()
    bitmap = page.render(scale=rendering.scale(width, height) * ROUND_DOWN, may_draw_forms=True)
    image = bitmap.to_pil().convert("RGB")
    bitmap.close()
    if any(annotation in SHOWN_ANNOTATIONS for annotation in _annotations(page)):
        # The text layer is that of the page's content: what annotations show is made content, and the page read anew.
        pdfium.FPDFPage_Flatten(page, pdfium.FLAT_NORMALDISPLAY)
        page.close()
        page = document[index]
    text_page = page.get_textpage()
    letters = text_page.count_chars()
    if letters > MOST_LETTERS:
        raise DocumentError(f"page {index + 1}: expected at most {MOST_LETTERS:,} letters, got {letters:,}")
    text = text_page.get_text_range()
    words = tuple(_words(page, text_page, text))
    made = Page(
        number=index + 1,
        label=label,
        image=store(image, folder),
        width=image.width,
        height=image.height,
        fingerprint=image_hash(image),
        text=text,
        lines=tuple(_lines(text_page, text)),
        words=words,
        garbled=_garbled(text_page, letters),
        uncovered=uncovered(image, words),
    )
    text_page.close()
    page.close()
    return made


def opened(path: Path) -> pypdfium2.PdfDocument:
    """Open a PDF.

    Raises:
        DocumentError: It is empty, broken or encrypted.
    """
    if path.stat().st_size == 0:
        raise DocumentError(f"{path.name}: the file is empty")
    pdfium.FPDF_LoadDocument(b"", None)  # the last error is never reset, and no pages set none: start from a known one
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        raise DocumentError(f"{path.name}: {REASONS.get(error.err_code, str(error))}") from error


def _last_page(document: pypdfium2.PdfDocument, claimed: int) -> int:
    """Number of the last page that is there: PDFium takes a document's own count of pages for granted."""
    size, last = pdfium.FS_SIZEF(), 0
    for number in range(1, claimed + 1):
        if pdfium.FPDF_GetPageSizeByIndexF(document, number - 1, size):
            last = number
        elif number - last > MISSING_IN_A_ROW:
            break
    return last


def _outline(document: pypdfium2.PdfDocument) -> Iterator[OutlineEntry]:
    """Entries in reading order, at all levels; one whose title cannot be decoded is left out, its children are not."""
    seen: set[int] = set()
    waiting = [(pdfium.FPDFBookmark_GetFirstChild(document, None), 0)]
    while waiting and len(seen) < MOST_ENTRIES:
        raw, level = waiting.pop()
        if not raw or ctypes.addressof(raw.contents) in seen:
            continue
        seen.add(ctypes.addressof(raw.contents))
        waiting.append((pdfium.FPDFBookmark_GetNextSibling(document, raw), level))
        waiting.append((pdfium.FPDFBookmark_GetFirstChild(document, raw), level + 1))
        bookmark = pypdfium2.PdfBookmark(raw, document, level)
        try:
            title = bookmark.get_title()
        except UnicodeDecodeError:
            continue
        target = bookmark.get_dest()
        index = None if target is None else target.get_index()
        yield OutlineEntry(title=title, level=level, page=None if index is None else index + 1)


def _annotations(page: pypdfium2.PdfPage) -> Iterator[int]:
    """Subtypes of the annotations of a page."""
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        if annotation:
            yield pdfium.FPDFAnnot_GetSubtype(annotation)
            pdfium.FPDFPage_CloseAnnot(annotation)


def _words(page: pypdfium2.PdfPage, text_page: pypdfium2.PdfTextPage, text: str) -> Iterator[Word]:
    """Words of `text` with the box around their first and last letters, in fractions of the image."""
    box = pdfium.FS_RECTF()
    left, top = ctypes.c_int(), ctypes.c_int()
    for match in re.finditer(r"\S+", text):
        corners: list[tuple[float, float]] = []
        for place in {match.start(), match.end() - 1}:
            index = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, place)
            if not pdfium.FPDFText_GetLooseCharBox(text_page, index, box):
                continue
            for x, y in ((box.left, box.top), (box.right, box.bottom)):
                # The page may be rotated or cropped: PDFium knows where a point of it is shown.
                pdfium.FPDF_PageToDevice(page, 0, 0, 10_000, 10_000, 0, x, y, left, top)
                corners.append((left.value / 10_000, top.value / 10_000))
        if corners:
            xs, ys = zip(*corners, strict=True)
            sides = (max(0.0, min(xs)), max(0.0, min(ys)), min(1.0, max(xs)), min(1.0, max(ys)))
            if (
                sides[0] < sides[2] and sides[1] < sides[3]
            ):  # else it lies outside of the page, as text that overflows a slide
                yield Word(text=match[0], box=sides)


def _garbled(text_page: pypdfium2.PdfTextPage, letters: int) -> float:
    """Share of the letters whose code says nothing: none, a control character, or one of the private use area."""
    bad = seen = 0
    for index in range(letters):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        if code in (10, 13, 32) or pdfium.FPDFText_IsGenerated(text_page, index) == 1:
            continue
        seen += 1
        bad += code in NO_LETTER or 0xE000 <= code <= 0xF8FF or code >= 0xF0000 or (code < 32 and code not in (2, 9))
    return bad / seen if seen else 0.0


def _lines(text_page: pypdfium2.PdfTextPage, text: str) -> Iterator[Line]:
    """Lines of `text`, set as their first, middle and last letters are."""
    offset = 0
    for raw in text.split("\n"):
        line = raw.strip()
        if line:
            first = offset + raw.index(line[0])
            places = {first, first + len(line) // 2, first + len(line) - 1}
            letters = [_letter(text_page, place) for place in sorted(places)]
            sizes = sorted(size for size, _ in letters)
            yield Line(text=line, size=round(sizes[len(sizes) // 2], 1), bold=all(bold for _, bold in letters))
        offset += len(raw) + 1


def _letter(text_page: pypdfium2.PdfTextPage, place: int) -> tuple[float, bool]:
    """Height in page units, and boldness, of the letter at a place in the text of the page.

    The nominal font size says nothing where the text matrix does the scaling, so the height is that of the font's box.
    """
    index = pdfium.FPDFText_GetCharIndexFromTextIndex(text_page, place)
    box = pdfium.FS_RECTF()
    if not pdfium.FPDFText_GetLooseCharBox(text_page, index, box):
        return 0.0, False
    name = ctypes.create_string_buffer(128)
    pdfium.FPDFText_GetFontInfo(text_page, index, name, len(name), None)
    weight = pdfium.FPDFText_GetFontWeight(text_page, index)
    face = name.value.decode("utf-8", "replace").lower()
    return abs(box.top - box.bottom), weight >= BOLD_WEIGHT or any(part in face for part in BOLD_NAMES)
