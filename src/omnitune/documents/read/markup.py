"""Documents of text (Word, PowerPoint, Excel, HTML, Markdown, e-mail, plain text) as blocks of text.

Office files and HTML go through markitdown (decision 070), whose Markdown is taken apart here with that of `.md` files;
e-mail and plain text need the standard library alone.
"""

import email
import email.policy
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omnitune.errors import DocumentError, MissingExtraError
from omnitune.runtime import require

MOST_LETTERS = 20_000_000
"""Of one document: 6,000 full pages."""

OFFICE = (".docx", ".pptx", ".xlsx")
"""Of files that markitdown reads, and LibreOffice too (see `libreoffice`)."""

ALONE = (".odt", ".odp", ".ods", ".doc", ".ppt", ".xls", ".rtf")
"""Of files that LibreOffice alone reads."""

_CONVERTERS = {
    ".docx": "DocxConverter",
    ".pptx": "PptxConverter",
    ".xlsx": "XlsxConverter",
    ".html": "HtmlConverter",
    ".htm": "HtmlConverter",
}

_FENCE = re.compile(r"^\s*(?:```|~~~)")
_HEADING = re.compile(r"^(#{1,6})\s+(\S.*)$")
_UNDERLINE = re.compile(r"^\s*(=+|-{3,})\s*$")
_TABLE_RULE = re.compile(r"^\s*\|?\s*:?-{2,}:?\s*(?:\|\s*:?-{2,}:?\s*)*\|?\s*$")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
_PROSE = re.compile(r"\s*(?!#{1,6}\s|\||<!--\s*Slide|(?:[-*_]\s*){3,}$|:?-{2,}:?\s*\|)\S")
_SLIDE = re.compile(r"^\s*<!--\s*Slide number:\s*\d+\s*-->\s*$")
# What is between two marks is short or does not repeat the first, or a file of opening brackets would take hours.
_COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]{0,400})\]\((?:[^()]|\([^()]*\)){0,2000}\)")
_IMAGE_DATA = re.compile(r"!\[[^\]]{0,400}\]\(data:[^()]*\)")
_MARKS = re.compile(r"(\*\*|__|~~|`)(?=\S)(.{1,400}?)(?<=\S)\1")
_EMPHASIS = re.compile(r"(?<![\w*])([*_])(?=\S)([^*_]{1,400}?)(?<=\S)\1(?![\w*])")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+\-.!|<>~&=])")
_PLANE = 0xF0000  # of private use: a letter there is in no word
_HIDDEN = re.compile(f"[{chr(_PLANE)}-{chr(_PLANE + 127)}]")
_CELLS = re.compile(r"(?<!\\)\|")
_STYLE_MAP = "".join(
    f"p[style-name='{name}'] => pre:separator('\\n')\n"
    for name in ("Source Code", "HTML Preformatted", "Preformatted Text", "Code")  # pandoc's, Word's, LibreOffice's
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One heading, paragraph, list item, table row or line of code.

    Attributes:
        text: In one line; "" ends a page.
        level: Of a heading, 1 for the outermost; 0 of other text.
        code: Whether its spaces mean something.
    """

    text: str
    level: int = 0
    code: bool = False


def read_blocks(path: Path) -> list[Block]:
    """Read a document of text.

    Raises:
        DocumentError: It cannot be read, is empty or too long, or its package is not installed.
    """
    if not path.stat().st_size:
        raise DocumentError(f"{path.name}: the file is empty")
    try:
        found = _blocks(path)
    except RecursionError as error:
        raise DocumentError(f"{path.name}: its parts are nested too deeply to be read") from error
    letters = sum(len(block.text) for block in found)
    if letters > MOST_LETTERS:
        raise DocumentError(f"{path.name}: expected at most {MOST_LETTERS:,} letters, got {letters:,}; split it")
    if not letters:
        raise DocumentError(f"{path.name}: there is no text in it")
    return found


def _blocks(path: Path) -> list[Block]:
    suffix = path.suffix.lower()
    if suffix in (".txt", ".text"):
        return [*_plain(_decoded(path.read_bytes()))]
    if suffix in (".md", ".markdown"):
        return [*parse_markdown(_decoded(path.read_bytes()))]
    if suffix == ".eml":
        return [*_mail(path)]
    if suffix in ALONE:
        raise DocumentError(
            f"{path.name}: LibreOffice alone reads {suffix} files: install it and prepare with office='auto', or save "
            "the file as PDF"
        )
    data = path.read_bytes()
    if suffix in (".html", ".htm"):
        data = _decoded(data).encode()
    return [*parse_markdown(_markdown(data, suffix, path.name))]


def parse_markdown(text: str) -> Iterator[Block]:
    """Take Markdown apart; marks of emphasis and addresses of links are left out."""
    paragraph: list[str] = []
    fenced = False

    def flush() -> Iterator[Block]:
        if paragraph:
            yield Block(text=_inline(" ".join(paragraph)))
            paragraph.clear()

    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
            yield from flush()
        elif fenced:
            if line.strip():
                yield Block(text=line.expandtabs(4).rstrip(), code=True)
        elif len(paragraph) == 1 and (underline := _UNDERLINE.match(line)):
            yield Block(text=_inline(paragraph.pop()), level=1 if "=" in underline[1] else 2)
        elif _PROSE.match(line):
            if _ITEM.match(line):
                yield from flush()
            paragraph.append(line.strip())
        else:
            yield from flush()
            yield from _alone(line)
    yield from flush()


def _alone(line: str) -> Iterator[Block]:
    """The block of a line that is no part of a paragraph: a heading, a row of a table, a new slide, or nothing."""
    heading = _HEADING.match(line)
    if heading:
        title = heading[2].rstrip()
        yield Block(text=_inline(title.rstrip("#").rstrip() or title), level=len(heading[1]))
    elif _SLIDE.match(line):
        yield Block(text="")
    elif line.lstrip().startswith("|") and not _TABLE_RULE.match(line):
        cells = [cell.strip() for cell in _CELLS.split(line)]
        if any(cells):
            yield Block(text=_inline(" | ".join(cell for cell in cells if cell)))


def _plain(text: str) -> Iterator[Block]:
    """Paragraphs of plain text, lines joined; lines that are indented or short of letters stay as they are."""
    for paragraph in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        lines = [line.expandtabs(4).rstrip() for line in paragraph.split("\n") if line.strip()]
        if any(line.startswith("  ") for line in lines):
            yield from (Block(text=line, code=True) for line in lines)
        elif lines:
            yield Block(text=" ".join(line.strip() for line in lines))


def _mail(path: Path) -> Iterator[Block]:
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    subject = " ".join(str(message.get("subject", "")).split())
    if subject:
        yield Block(text=subject, level=1)
    for name in ("from", "to", "date"):
        if message.get(name):
            yield Block(text=f"{name.capitalize()}: {' '.join(str(message[name]).split())}")
    body = message.get_body(preferencelist=("plain", "html"))
    if body is None:
        return
    try:
        text = body.get_content()
    except (LookupError, KeyError, UnicodeError):  # an unknown character set, or a kind of content that is no text
        raw = body.get_payload(decode=True)
        text = _decoded(raw) if isinstance(raw, bytes) else ""
    if body.get_content_subtype() == "html":
        yield from parse_markdown(_markdown(text.encode(), ".html", path.name))
    else:
        yield from _plain(text)


def _markdown(data: bytes, suffix: str, name: str) -> str:
    """Convert a file through the converter of its suffix: markitdown's own guess reads a damaged file as plain text."""
    try:
        markitdown = require("markitdown", extra="office")
    except MissingExtraError as error:
        raise DocumentError(f"{name}: {error}") from error
    converter = getattr(markitdown.converters, _CONVERTERS[suffix])()
    stream_info = markitdown.StreamInfo(extension=suffix, charset="utf-8" if suffix in (".html", ".htm") else None)
    try:
        # Without escapes a line of text that begins with "#", such as a comment of a program, would be a heading.
        markdown = converter.convert(io.BytesIO(data), stream_info, escape_misc=True, style_map=_STYLE_MAP).markdown
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - parsers of five packages, on files that anyone may have written
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DocumentError(f"{name}: not a {suffix} file that can be read ({last})") from error
    return _IMAGE_DATA.sub("", str(markdown))


def _inline(text: str) -> str:
    text = _ESCAPED.sub(lambda found: chr(_PLANE + ord(found[1])), text)  # so that it is no mark
    text = _LINK.sub(r"\1", _COMMENT.sub("", text))
    for _ in range(3):  # marks inside of marks
        text = _EMPHASIS.sub(r"\2", _MARKS.sub(r"\2", text))
    return " ".join(_HIDDEN.sub(lambda found: chr(ord(found[0]) - _PLANE), text).split())


def _decoded(data: bytes) -> str:
    """Text of a file: UTF-8, UTF-16 where it says so, else Windows' Western European, which is never refused."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
