"""Overlap of queries with single lines of texts, and texts that are mostly lists of references.

A heading is a line. BM25 over a whole page cannot tell the page that carries a heading from one that holds its words
here and there; the best line can. A table of contents carries all headings, which `listing_share` tells apart.
Decision 080 has the measurements.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from omnitune.errors import InputError
from omnitune.ops.bm25 import words

_LEADER = re.compile(r"(?:\. ?){4,}")
_WORD = re.compile(r"[^\W\d_]{2,}")
LONG_LINE, LITTLE_PROSE = 8, 0.05


def listing_share(texts: Sequence[str]) -> NDArray[np.float32]:
    r"""Tables of contents, indexes and covers: about 1, where prose is 0.

    Two signs, of which the larger counts: runs of four or more dots for every line, and the want of prose, which is the
    share of lines with at least eight words of letters falling below 5%. Recognition lost the dots of all 16 listings
    of the demo's held-out manuals; 14 were found by their want of prose.

    Slides and scripts written without spaces have no long lines either. All their pages get 1 then, which changes no
    order among them.

    Returns:
        `(texts,)` in [0, 1]; 0 for a text without lines.

    Examples:
        >>> listing_share(["1 Basics . . . . 1\n2 Use . . . . 3", "Here are eight words of prose in line."]).tolist()
        [1.0, 0.0]
    """
    return np.array([_listing(text) for text in texts], dtype=np.float32)


def _listing(text: str) -> float:
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return 0.0
    leaders = sum(len(_LEADER.findall(line)) for line in lines) / len(lines)
    prose = sum(len(_WORD.findall(line)) >= LONG_LINE for line in lines) / len(lines)
    return min(1.0, max(leaders, 1 - prose / LITTLE_PROSE))


class LineMatch:
    r"""Scores of texts by the one line, or two lines after one another, that a query resembles most.

    The score is an F-measure over distinct words, each weighted by its inverse document frequency: 1 where the words of
    line and query are the same, 0 where they share none. Precision keeps long lines that merely hold the words behind
    the heading itself, and `recall` weighs it.

    Args:
        corpus: The texts, their lines separated by newlines.
        recall: Weight of recall against precision, from 0 to 1: the score is the shared weight divided by
            `recall * query + (1 - recall) * line`.
        tokenize: Splits a line or a query into words.

    Raises:
        InputError: `corpus` is empty, or `recall` is not between 0 and 1.

    Examples:
        >>> LineMatch(["2 Objects\nIn R everything is an object.", "plain objects"]).scores(["plain objects"]).round(2)
        array([[0.21, 1.  ]], dtype=float32)

    Source:
        van Rijsbergen 1979, chapter 7, on the weighted harmonic mean of precision and recall.
    """

    def __init__(
        self,
        corpus: Sequence[str],
        *,
        recall: float = 2 / 3,
        tokenize: Callable[[str], list[str]] = words,
    ) -> None:
        if not corpus:
            raise InputError("corpus: expected at least one text, got none")
        if not 0 <= recall <= 1:
            raise InputError(f"recall: expected a weight between 0 and 1, got {recall!r}")
        self.tokenize, self.recall, self.size = tokenize, recall, len(corpus)
        lines = [[tokenize(line) for line in text.split("\n")] for text in corpus]
        holders = Counter(word for rows in lines for word in {word for row in rows for word in row})
        self.vocabulary = {word: term for term, word in enumerate(holders)}
        counts = np.fromiter(holders.values(), dtype=np.float64, count=len(holders))
        self._idf = np.log1p((self.size - counts + 0.5) / (counts + 0.5))
        self._unseen = math.log1p((self.size + 0.5) / 0.5)
        terms: list[int] = []
        places: list[int] = []
        owners: list[int] = []
        for owner, rows in enumerate(lines):
            # A heading that does not fit is set in two lines, so neighbours count as one line, too.
            for row in (*rows, *(first + second for first, second in zip(rows, rows[1:], strict=False))):
                distinct = {self.vocabulary[word] for word in row}
                terms.extend(distinct)
                places.extend([len(owners)] * len(distinct))
                owners.append(owner)
        of_term, of_line = np.array(terms, dtype=np.int64), np.array(places, dtype=np.int64)
        order = np.argsort(of_term, kind="stable")
        self._lines = of_line[order]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(of_term, minlength=len(self.vocabulary)))])
        self._owners = np.array(owners, dtype=np.int64)
        self._weights = np.bincount(of_line, weights=self._idf[of_term], minlength=len(owners))

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Score of every text for every query `(queries, texts)`, in [0, 1]; 0 where no line shares a word with it."""
        scores = np.zeros((len(queries), self.size), dtype=np.float32)
        shared = np.zeros(len(self._owners))
        for row, query in zip(scores, queries, strict=True):
            shared[:] = 0
            asked = 0.0
            for word in set(self.tokenize(query)):
                term = self.vocabulary.get(word)
                asked += self._unseen if term is None else self._idf[term]
                if term is not None:
                    shared[self._lines[self._starts[term] : self._starts[term + 1]]] += self._idf[term]
            hit = np.flatnonzero(shared)
            overlap = shared[hit] / (self.recall * asked + (1 - self.recall) * self._weights[hit])
            np.maximum.at(row, self._owners[hit], overlap.astype(np.float32))
        return scores
