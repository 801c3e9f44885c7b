"""PDF documents through pypdfium2: page images, text layer with type sizes, outline, page labels.

PDFium is neither safe to call from two threads nor safe against every broken file, so `worker` runs this module in
processes of their own.
"""

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium

from omnitune.documents.read.pages import Description, Line, OutlineEntry, Page, Rendering, look, store
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


def describe(path: Path, rendering: Rendering | None = None) -> Description:  # noqa: ARG001
    """Page count, title and outline of a PDF.

    Raises:
        DocumentError: It is empty, broken or encrypted, or has no pages.
    """
    with _opened(path) as document:
        title = document.get_metadata_value("Title").strip()
        return Description(pages=len(document), title=title, outline=tuple(_outline(document)))


def pages(path: Path, start: int, stop: int, folder: Path, rendering: Rendering) -> Iterator[Page]:
    """Pages `start` to `stop - 1`, counted from 0; their images are stored in `folder`.

    Raises:
        DocumentError: The PDF cannot be opened, or one of the pages cannot be loaded.
    """
    with _opened(path) as document:
        for index in range(start, stop):
            try:
                page = document[index]
            except pypdfium2.PdfiumError as error:
                raise DocumentError(f"{path.name}: page {index + 1} cannot be loaded ({error})") from error
            yield _page(page, index, document.get_page_label(index), folder, rendering)
            page.close()


def _page(page: pypdfium2.PdfPage, index: int, label: str, folder: Path, rendering: Rendering) -> Page:
    width, height = page.get_size()
    bitmap = page.render(scale=rendering.scale(width, height) * ROUND_DOWN)
    image = bitmap.to_pil().convert("RGB")
    bitmap.close()
    text_page = page.get_textpage()
    text = text_page.get_text_range()
    lines = tuple(_lines(text_page, text))
    text_page.close()
    return Page(
        number=index + 1,
        label=label,
        image=store(image, folder),
        width=image.width,
        height=image.height,
        look=look(image),
        text=text,
        lines=lines,
    )


def _opened(path: Path) -> pypdfium2.PdfDocument:
    if path.stat().st_size == 0:
        raise DocumentError(f"{path.name}: the file is empty")
    pdfium.FPDF_LoadDocument(b"", None)  # the last error is never reset, and no pages set none: start from a known one
    try:
        return pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        raise DocumentError(f"{path.name}: {REASONS.get(error.err_code, str(error))}") from error


def _outline(document: pypdfium2.PdfDocument) -> Iterator[OutlineEntry]:
    for bookmark in document.get_toc():
        target = bookmark.get_dest()
        index = None if target is None else target.get_index()
        yield OutlineEntry(title=bookmark.get_title(), level=bookmark.level, page=None if index is None else index + 1)


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
