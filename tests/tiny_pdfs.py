"""PDF files written by hand: real text, type sizes and an outline, no library."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOPICS = {
    "garden": [
        "Sowing tomatoes early",
        "Pruning apple trees",
        "Compost for roses",
        "Watering cucumbers",
        "Slug barriers",
    ],
    "kitchen": [
        "Baking rye bread",
        "Sharpening steel knives",
        "Fermenting white cabbage",
        "Roasting pumpkin",
        "Fish stock",
    ],
    "workshop": [
        "Cutting dovetail joints",
        "Varnishing oak tables",
        "Soldering copper pipes",
        "Drill speeds",
        "Lathe safety",
    ],
    "harbour": ["Mooring heavy barges", "Reading tide charts", "Splicing hemp rope", "Buoy colours", "Crane signals"],
}
FILLER = "it is done slowly and with care because haste spoils the work and the tools that serve it for many years"


@dataclass(frozen=True)
class Sheet:
    """One page: a heading, which is also its outline title, and lines of text."""

    title: str
    lines: Sequence[str]


def write_pdf(path: Path, sheets: Sequence[Sheet], *, outline: bool = True) -> Path:
    """Write a PDF of 400 x 520 points a page."""
    objects: list[bytes] = [b"", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    pages = []
    for sheet in sheets:
        drawn = [f"BT /F1 20 Tf 30 470 Td ({_text(sheet.title)}) Tj ET"]
        drawn += [f"BT /F1 11 Tf 30 {440 - 16 * n} Td ({_text(line)}) Tj ET" for n, line in enumerate(sheet.lines)]
        stream = "\n".join(drawn).encode("latin-1")
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 520] "
            b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>"
            % len(objects)
        )
        pages.append(len(objects))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(pages), b" ".join(b"%d 0 R" % n for n in pages))
    catalog = b"<< /Type /Catalog /Pages 2 0 R"
    if outline:
        root = len(objects) + 1
        items = [root + 1 + n for n in range(len(sheets))]
        objects.append(
            b"<< /Type /Outlines /First %d 0 R /Last %d 0 R /Count %d >>" % (items[0], items[-1], len(items))
        )
        for n, (sheet, page) in enumerate(zip(sheets, pages, strict=True)):
            entry = f"<< /Title ({_text(sheet.title)}) /Parent {root} 0 R /Dest [{page} 0 R /Fit]"
            entry += f" /Prev {items[n - 1]} 0 R" if n else ""
            entry += f" /Next {items[n + 1]} 0 R" if n + 1 < len(items) else ""
            objects.append((entry + " >>").encode("latin-1"))
        catalog += b" /Outlines %d 0 R" % root
    objects[0] = catalog + b" >>"
    body = b"%PDF-1.4\n"
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(body))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + trailer)
    return path


def write_folder(folder: Path, topics: Sequence[str] = tuple(TOPICS)) -> Path:
    """A folder of small manuals, one a topic, every page about something of its own."""
    for topic in topics:
        sheets = [Sheet(title, _lines(title, topic)) for title in TOPICS[topic]]
        write_pdf(folder / f"{topic}.pdf", sheets)
    return folder


def _lines(title: str, topic: str) -> list[str]:
    words = title.lower()
    return [
        f"This part of the {topic} handbook explains {words} to beginners.",
        f"When {words} goes wrong the usual reason is impatience in the {topic},",
        f"as {FILLER[: 40 + 7 * len(title) % 50]}.",
        f"Experts in {words} recommend patience, good light and a dry {topic}.",
    ]


def _text(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
