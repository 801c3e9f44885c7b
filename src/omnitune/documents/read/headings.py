"""Lines that are set like headings: larger than the body of the document, or bold on a line of their own.

Word processors rarely write an outline into a PDF; what a reader takes for a heading is still there, in the type.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from omnitune.documents.read.pages import Line, Page
from omnitune.documents.read.text import flat, normalize_key

LARGER = 1.15
"""A heading is this much larger than the body; faces of one size differ by up to a tenth in the height of their box."""

MOST_LETTERS = 100
MOST_PER_PAGE = 8
MOST_PAGES = 2
"""A line that stands on more pages than this is a running head."""

_HAS_WORD = re.compile(r"[^\W\d_]{3}")
_SECTION = re.compile(r"^(?:\d{1,2}|[A-Z])(?:\.\d{1,3})+\.?\s+")
"""The number of a section, of two levels at least: one begins the items of lists, too."""


def headings(pages: Sequence[Page]) -> list[list[str]]:
    """For each page of one document its headings from the top, as clean text."""
    body = body_size(pages)
    return _kept([list(_on_page(without_running_heads(page), body)) for page in pages])


def recognised_headings(texts: Sequence[str]) -> list[list[str]]:
    r"""For each page of one document its headings by their numbers, because recognition gives no type sizes.

    Args:
        texts: Of all pages, clean, a line a line; "" for a page that was not recognised.

    Example:
        >>> recognised_headings(["2.1 Greasing the bearing\nIt is greased weekly.\nOil is changed as in 2.3."])
        [['2.1 Greasing the bearing']]
    """
    found = []
    for text in texts:
        lines = text.split("\n")
        marks = [line for line in lines if _numbered(line)]
        found.append([] if 2 * len(marks) > len(lines) else marks)  # more are the end of a table of contents
    return _kept(found)


def _numbered(line: str) -> bool:
    title = _SECTION.sub("", line, count=1)
    return (
        title != line
        and title[:1].isupper()
        and len(title) <= MOST_LETTERS
        and line[-1] not in ".,;:"
        and _HAS_WORD.search(title) is not None
    )


def _kept(found: list[list[str]]) -> list[list[str]]:
    """Leave out running heads, and pages with so many that they are a table of contents."""
    seen = Counter(mark for marks in found for mark in {_undigited(mark) for mark in marks})
    kept = [[mark for mark in marks if seen[_undigited(mark)] <= MOST_PAGES] for marks in found]
    return [marks if len(marks) <= MOST_PER_PAGE else [] for marks in kept]


def without_running_heads(page: Page) -> Sequence[Line]:
    """The lines of a page without a first or last one that begins or ends with the page's number."""
    numbers = {page.label, str(page.number)} - {""}
    lines = list(page.lines)
    for end in (0, -1):
        tokens = lines[end].text.split() if lines else []
        if len(tokens) > 1 and numbers & {tokens[0], tokens[-1]}:
            lines.pop(end)
    return lines


def _undigited(text: str) -> str:
    """Reduce a running head to what stays the same from page to page."""
    return "".join(letter for letter in normalize_key(text) if not letter.isdigit())


def body_size(pages: Sequence[Page]) -> float:
    """The type size that most letters of a document are set in; 0 without text."""
    letters: Counter[float] = Counter()
    for page in pages:
        for line in page.lines:
            letters[line.size] += len(line.text)
    return max(letters, key=lambda size: (letters[size], -size)) if letters else 0.0


def _on_page(lines: Sequence[Line], body: float) -> Iterator[str]:
    """Runs of neighbouring lines of one size that are set like a heading, as one text each."""
    run: list[Line] = []
    for line in [*lines, Line(text="", size=0.0, bold=False)]:
        if run and (line.size != run[-1].size or line.bold != run[-1].bold):
            text = flat(" ".join(part.text for part in run))
            if _like_heading(text, run, body):
                yield text
            run = []
        run.append(line)


def _like_heading(text: str, run: Sequence[Line], body: float) -> bool:
    if not _HAS_WORD.search(text) or len(text) > MOST_LETTERS or len(run) > 3:
        return False
    if run[0].size >= LARGER * body:
        return True
    return run[0].bold and run[0].size >= body and text[-1] not in ".,;:"
