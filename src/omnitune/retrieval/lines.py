"""Signals of a page's lines: how well one line matches a query, and how much of the page lists other pages.

Both refine candidates that other stages propose. A title that stands on a page as a line of its own says more than the
same words scattered over it; a table of contents has all titles and answers none.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune.ops.bm25 import words
from omnitune.retrieval.arrays import Array, offsets_of, take_ranges
from omnitune.retrieval.base import MISSING, SegmentedIndex
from omnitune.retrieval.lexical import hash_of
from omnitune.retrieval.segments import Part, Segments

BETA = 0.5
"""Weight of the line's other words against the query's: below 1, a long line that holds the query still counts."""

PROSE_WORDS, PROSE_LETTERS = 8, 20
"""Words, and letters of Chinese, Japanese or Thai, from which a line is of a sentence."""

LEAST_PROSE, FEWEST_LINES = 0.05, 5
"""Share of such lines below which a page of that many lines lists others (docs/decisions/081)."""

_WORD = re.compile(r"[^\W\d_]{2,}")
_UNPARTED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_LEADER = re.compile(r"(?:[.…·] ?){4,}")


def leader_share(text: str) -> float:
    r"""Dotted leaders a line, from 0 for prose to 1 for a table of contents.

    Example:
        >>> leader_share("Contents\n1 Greasing . . . . . 12\n2 Oil ........ 14\n3 Index")
        0.5
    """
    return min(1.0, len(_LEADER.findall(text)) / (text.count("\n") + 1))


def listing_share(text: str) -> float:
    r"""Share of a page that lists other pages: its dotted leaders a line, or 1 where hardly a line is of a sentence.

    Recognition drops most leaders and page numbers, so of a scan only the second sign is left. Prose is a line of
    `PROSE_WORDS` words, or of `PROSE_LETTERS` letters in a script that does not part them.

    Example:
        >>> listing_share("Contents\n1 Greasing the bearing\n2 Oil\n3 Changing the filter\n4 Index")
        1.0
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < FEWEST_LINES:
        return leader_share(text)
    prose = sum(
        len(_WORD.findall(line)) >= PROSE_WORDS or len(_UNPARTED.findall(line)) >= PROSE_LETTERS for line in lines
    )
    return 1.0 if prose < LEAST_PROSE * len(lines) else leader_share(text)


class LineIndex(SegmentedIndex):
    r"""Lines of pages, and pairs of neighbouring lines, compared with a query by the words that they share.

    A line's score is the F-measure of shared words weighted by rarity, squared, so that only close matches count; a
    page's is that of its best line, from 0 to 1. Rarity is counted over the pages that are there at search time.

    Args:
        segments: The rows; None begins an index in memory.
        prefix: Put before the names of this index's arrays.
        made_by: Not used: no model makes this index.
        beta: See `BETA`.

    Example:
        >>> index = LineIndex()
        >>> index.add([{"id": "a"}, {"id": "b"}], ["Greasing\nthe bearing\nis done weekly", "Grease and oil"])
        >>> [(hit.entry["id"], hit.score) for hit in index.search(["greasing the bearing"])[0]]
        [('a', 1.0), ('b', 0.0)]
    """

    kind = "lines"

    def __init__(
        self,
        segments: Segments | None = None,
        *,
        prefix: str = "",
        made_by: Mapping[str, str] | None = None,
        beta: float = BETA,
    ) -> None:
        super().__init__(segments, prefix=prefix, made_by=made_by, beta=beta)
        self._counted: tuple[Any, list[NDArray[np.float32]], float] | None = None

    def pack(self, rows: Sequence[str]) -> dict[str, Array]:
        """The words of every line and every pair of lines, as numbers of `terms`, and those of every page."""
        vocabulary: dict[str, int] = {}
        units: list[int] = []
        lengths: list[int] = []
        counts: list[int] = []
        held: list[int] = []
        held_lengths: list[int] = []
        for text in rows:
            lines = [set(found) for line in text.split("\n") if (found := words(line))]
            some = [*lines, *(first | second for first, second in pairwise(lines))]
            for unit in some:
                units += [vocabulary.setdefault(word, len(vocabulary)) for word in sorted(unit)]
            lengths += map(len, some)
            counts.append(len(some))
            page = sorted({word for line in lines for word in line})
            held += [vocabulary[word] for word in page]
            held_lengths.append(len(page))
        hashes = np.array(list(map(hash_of, vocabulary)), dtype=np.uint64)
        order = np.argsort(hashes)
        number = np.empty(len(order), dtype=np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        arrays: dict[str, Array] = {
            "terms": hashes[order],
            "units": number[np.array(units, dtype=np.int64)],
            "units_offsets": offsets_of(lengths),
            "pages_offsets": offsets_of(counts),
            "held": number[np.array(held, dtype=np.int64)],
            "held_offsets": offsets_of(held_lengths),
        }
        return {self.prefix + name: array for name, array in arrays.items()}

    def scores(
        self,
        queries: Sequence[str] | str,
        allowed: NDArray[np.bool_],
        *,
        rows: Sequence[NDArray[np.int64]] | None = None,
    ) -> Iterable[NDArray[np.float32]]:
        """Squared F-measure of the best line of every page, from 0 to 1.

        Args:
            queries: Texts.
            allowed: Rows that may be found.
            rows: Candidates of every query that other stages found; None compares with all.
        """
        asked = [queries] if isinstance(queries, str) else queries
        everything = np.flatnonzero(allowed)
        return [
            self._scores_of(query, allowed, everything if rows is None else rows[number])
            for number, query in enumerate(asked)
        ]

    def _scores_of(self, query: str, allowed: NDArray[np.bool_], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        beta, wanted = self.settings["beta"], sorted(set(words(query)))
        made = np.full(len(allowed), MISSING, dtype=np.float32)
        rows = rows[allowed[rows]]
        made[rows] = 0.0
        starts = self.segments.starts()
        rarity, unknown = self._rarity()
        hashes = np.array(list(map(hash_of, wanted)), dtype=np.uint64)
        weights = np.full(len(wanted), unknown, dtype=np.float32)
        places = []
        for part, rare in zip(self.segments.parts, rarity, strict=True):
            terms = self._array(part, "terms")
            at = np.minimum(np.searchsorted(terms, hashes), max(len(terms) - 1, 0))
            there = terms[at] == hashes if len(terms) else np.zeros(len(hashes), dtype=bool)
            weights[there] = rare[at[there]]
            places.append(at[there])
        whole = float(weights.sum())
        for number, (part, rare) in enumerate(zip(self.segments.parts, rarity, strict=True)):
            here = rows[(rows >= starts[number]) & (rows < starts[number + 1])]
            pages = self._array(part, "pages_offsets")
            local = here - starts[number]
            counts = pages[local + 1] - pages[local]
            here, local, counts = here[counts > 0], local[counts > 0], counts[counts > 0]
            if not len(here) or not len(places[number]):
                continue
            units = self._array(part, "units_offsets")
            chosen = take_ranges(pages[local], counts)
            lengths = units[chosen + 1] - units[chosen]
            words_of = self._array(part, "units")[take_ranges(units[chosen], lengths)]
            matched = np.zeros(len(rare), dtype=np.float32)
            matched[places[number]] = rare[places[number]]
            first = offsets_of(lengths)[:-1]
            shared, mass = (np.add.reduceat(table[words_of], first) for table in (matched, rare))
            closeness = (1 + beta) * shared / (whole + beta * mass)
            made[here] = np.maximum.reduceat(closeness, offsets_of(counts)[:-1]) ** 2
        return made

    def _array(self, part: Part, name: str) -> Array:
        return part.arrays[self.prefix + name]

    def _rarity(self) -> tuple[list[NDArray[np.float32]], float]:
        """Inverse document frequency of the terms of every segment over the rows that are there, and of a new word."""
        parts = self.segments.parts
        state = [(part.name, int(part.alive.sum())) for part in parts]
        if self._counted is not None and self._counted[0] == state:
            return self._counted[1], self._counted[2]
        terms = [np.asarray(self._array(part, "terms")) for part in parts]
        _, place = np.unique(np.concatenate(terms) if terms else np.zeros(0, np.uint64), return_inverse=True)
        ends = offsets_of(map(len, terms))
        pages = np.zeros(int(place.max()) + 1 if len(place) else 0, dtype=np.int64)
        for number, part in enumerate(parts):
            offsets = self._array(part, "held_offsets")
            alive = np.flatnonzero(part.alive)
            found = self._array(part, "held")[take_ranges(offsets[alive], offsets[alive + 1] - offsets[alive])]
            pages += np.bincount(place[ends[number] : ends[number + 1]][found], minlength=len(pages))
        total = sum(count for _, count in state)
        rare = np.log1p((total - pages + 0.5) / (pages + 0.5)).astype(np.float32)
        made = [rare[place[start:stop]] for start, stop in pairwise(ends)]
        self._counted = state, made, float(np.log1p((total + 0.5) / 0.5))
        return self._counted[1], self._counted[2]


class ListingIndex(SegmentedIndex):
    r"""Hold back pages that list others: minus `listing_share`, from -1 to 0.

    Example:
        >>> index = ListingIndex()
        >>> index.add([{"id": "contents"}], ["Greasing . . . . . . 12\nOil . . . . . . 14"])
        >>> index.search(["oil"])[0][0].score
        -1.0
    """

    kind = "listing"

    def pack(self, rows: Sequence[str]) -> dict[str, Array]:
        """The share of every text `(texts,)`."""
        return {f"{self.prefix}shares": np.array([listing_share(text) for text in rows], dtype=np.float32)}

    def scores(
        self,
        queries: Sequence[str] | str,
        allowed: NDArray[np.bool_],
        *,
        rows: Sequence[NDArray[np.int64]] | None = None,
    ) -> Iterable[NDArray[np.float32]]:
        """Scores of all rows, the same for every query; `MISSING` for rows that are no candidates."""
        shares = [part.arrays[f"{self.prefix}shares"] for part in self.segments.parts]
        own = 0 - np.concatenate(shares) if shares else np.zeros(0, dtype=np.float32)  # -0.0 would be shown
        everything = np.flatnonzero(allowed)
        made = []
        for number in range(1 if isinstance(queries, str) else len(queries)):
            chosen = everything if rows is None else rows[number]
            scored = np.full(len(allowed), MISSING, dtype=np.float32)
            scored[chosen] = np.where(allowed[chosen], own[chosen], MISSING)
            made.append(scored)
        return made
