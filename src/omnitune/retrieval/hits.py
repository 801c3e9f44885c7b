"""Hits of a retriever: pages with their scores, and why."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnitune.documents.read.pages import read_words
from omnitune.errors import InputError
from omnitune.ops.bm25 import words
from omnitune.places import hint

Box = list[Any]
"""`[text, left, top, right, bottom]` in fractions of a page's width and height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One page that answers a query.

    Attributes:
        rank: 1 for the best.
        id: Of the page, such as "R-lang.pdf#18".
        document: Its document.
        page: Its number there, from 1.
        score: By the last stage that scored it; comparable within the results of one query.
        entry: All values that were given with the page, such as `label`, `path`, `times`; filters read these.
        text: Of the page.
        stages: Score by every stage, when explained.
        ranks: Rank by every stage among the candidates, 1 for the best, when explained.
        words: Words of the query that the page's text holds and, with a lexical stage, half of the pages lack; when
            explained.
        boxes: `[word, left, top, right, bottom]` of those words on the page in fractions of its width and height, when
            explained and where they are known: kept in the index, or beside the page's image.

    Example:
        >>> from omnitune.retrieval.stages import LexicalStage
        >>> items = [{"id": "pump.pdf#1", "page": 1, "text": pages[0]}]
        >>> hit = Retriever.build(items, [LexicalStage()]).search("which bearing", explain=True)[0]
        >>> hit.rank, hit.document, hit.page, hit.words
        (1, 'pump.pdf', 1, ['bearing'])
    """

    rank: int
    id: str
    document: str
    page: int | None
    score: float
    entry: Mapping[str, Any]
    text: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    words: Sequence[str] = ()
    boxes: Sequence[Any] = ()

    def snippet(self, query: str, width: int = 160) -> str:
        """The part of the text with most words of a query, in one line of at most `width` characters.

        Example:
            >>> text = "A long start. The bearing is greased weekly. An end."
            >>> hit = Hit(rank=1, id="a#1", document="a", page=1, score=1.0, entry={}, text=text)
            >>> hit.snippet("when is the bearing greased", width=30)
            '… The bearing is greased …'
        """
        return snippet(self.text, set(words(query)), width)


def page_words(details: Mapping[str, Any], stored: Path | None) -> list[Box]:
    """Words of a page with their places: those that the index keeps, else those that lie beside the page's image.

    Args:
        details: Of the page.
        stored: Its image.
    """
    given = details.get("boxes")
    if given:
        return [list(one) for one in given]
    return [] if stored is None else [[word.text, *word.box] for word in read_words(stored.name, stored.parent)]


def snippet(text: str, wanted: set[str], width: int = 160) -> str:
    """The part of a text with most letters of different wanted words, in one line of at most `width` characters.

    Letters, not words, because long words say more than "a" and "of".

    Example:
        >>> snippet("A long start. The bearing is greased weekly. An end.", {"bearing", "greased"}, width=30)
        '… The bearing is greased …'
    """
    tokens = text.split()
    matched = [wanted & set(words(token)) for token in tokens]
    best, place = -1, (0, 0)
    stop = length = 0
    for start in range(len(tokens)):
        stop = max(stop, start)
        while stop < len(tokens) and length + len(tokens[stop]) + 1 <= width - 4:
            length += len(tokens[stop]) + 1
            stop += 1
        worth = sum(map(len, set().union(*matched[start:stop])))
        if worth > best:
            best, place = worth, (start, stop)
        length -= len(tokens[start]) + 1 if stop > start else 0
    start, stop = place
    shown = " ".join(tokens[start:stop])[: width - 4]
    return f"{'… ' if start else ''}{shown}{' …' if stop < len(tokens) else ''}"


def check_documents(there: Sequence[str], names: Iterable[str], argument: str) -> None:
    """Expect documents that a retriever has.

    Args:
        there: Its documents.
        names: Those that were asked for.
        argument: By which they were given, for the error.

    Raises:
        InputError: One is not there; names one that is near.
    """
    for name in names:
        if name not in there:
            raise InputError(
                f"{argument}: expected one of the retriever's {len(there):,} documents, got {name[:80]!r}"
                f"{hint(name, there)}"
            )
