"""Text of a page made fit for comparing: clean lines, words, sentences.

The text layer of a PDF has ligatures, hyphens at line ends, soft hyphens and control characters in it. Everything that
compares texts (near-duplicates, whether a title stands on a page, queries) goes through here.
"""

import re
import unicodedata
from functools import lru_cache

LINE_END_HYPHENS = "\u00ad\ufffe\u0002"
"""Written by PDFium for a hyphen that only breaks a word at the end of a line: U+FFFE, or the control character 2."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u2060\ufeff\ufffd]")
_SPACES = re.compile(r"[^\S\n]+")
_BROKEN_WORD = re.compile(rf"[{LINE_END_HYPHENS}]\s*\n?\s*")
_HYPHENATED = re.compile(r"(?<=[^\W\d_])-[ ]*\n[ ]*(?=[a-zà-öø-ÿ])")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}](?:[\w.+#&'/-]*[^\W{_CJK}])?")
_SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+(?=[\"'(\[]*[^\W\da-z_])|(?<=[。！？])")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|cf|etc|vs|Fig|Figs|Tab|Sec|Eq|No|pp|Dr|Mr|Mrs|Prof|St|al)|\b[A-Z])\.$")


def clean(raw: str) -> str:
    """Composed characters, ligatures apart, words whole across lines, single spaces; line breaks stay.

    Cleaning a clean text changes nothing.
    """
    text = unicodedata.normalize("NFKC", raw.replace("\r\n", "\n").replace("\r", "\n"))
    text = _BROKEN_WORD.sub("", text)
    text = _CONTROL.sub("", text)
    text = _SPACES.sub(" ", text)
    lines = [line.strip() for line in text.split("\n")]
    return _HYPHENATED.sub("", "\n".join(line for line in lines if line))


def printable(name: str) -> str:
    r"""Make a file's name fit for JSON, tables and terminals: bytes that are no UTF-8, and control characters, escaped.

    `b"caf\xe9.pdf"` becomes `"caf\\xe9.pdf"`; a name without such characters stays as it is.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") else letter
        for letter in text
    )


def flat(text: str) -> str:
    """Cleaned text on one line."""
    return clean(text).replace("\n", " ")


def words(text: str) -> list[str]:
    """Words as written, punctuation at their ends removed (`read.table`, `C++` stay whole); a CJK letter is a word."""
    return _WORD.findall(text)


def normalize_key(text: str) -> str:
    """Letters and digits only, case folded: two texts that differ in spacing, case and punctuation are equal."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum())


@lru_cache(1 << 16)
def term(word: str) -> str:
    """A word normalized; remembered, because the words of a folder are few and often asked for."""
    return normalize_key(word)


def terms(text: str) -> list[str]:
    """The words of a text, normalized; those without letters and digits are left out."""
    return [found for found in map(term, words(text)) if found]


def sentences(paragraph: str) -> list[str]:
    """Sentences of a text on one line; an abbreviation does not end one."""
    whole: list[str] = []
    for piece in _SENTENCE_END.split(paragraph):
        if whole and _ABBREVIATION.search(whole[-1][-12:]):  # the longest has five letters
            whole[-1] += " " + piece.strip()
        elif piece.strip():
            whole.append(piece.strip())
    return whole


def script(text: str) -> str:
    """The script that most letters are of (`"LATIN"`, `"CYRILLIC"`, `"CJK"`, ...), or "" without letters."""
    counts: dict[str, int] = {}
    for letter in text:
        if letter.isalpha():
            name = unicodedata.name(letter, "").split(" ")[0]
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: (counts[name], name)) if counts else ""
