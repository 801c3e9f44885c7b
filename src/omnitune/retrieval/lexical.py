"""BM25 over a corpus that changes: postings in segments on disk, weights computed for the words of a query.

The numbers are those of `ops.bm25` (Lucene's variant) over the rows that are there now: document frequencies and the
mean length are counted at search time, so a row that is added or removed counts at once and nothing is rewritten. A
word is known by 64 bits of its hash; a million different words collide once in 37 million corpora.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omnitune.ops.bm25 import words
from omnitune.retrieval.arrays import Array
from omnitune.retrieval.base import MISSING, SegmentedIndex
from omnitune.retrieval.segments import Part, Segments

FEW = 20
"""Pages below which no word counts as common."""


class LexicalIndex(SegmentedIndex):
    """Texts of documents, compared by BM25.

    Args:
        segments: The rows; None begins an index in memory.
        prefix: Put before the names of this index's arrays.
        made_by: Not used: no model makes a lexical index.
        k1: How fast repeated occurrences of a word stop counting.
        b: How much long texts are held back, from 0 to 1.
        tokenize: Splits a text or a query into words.

    Source:
        Robertson and Zaragoza 2009; Kamphuis et al. 2020 on the variants ("Lucene (accurate)").

    Example:
        >>> index = LexicalIndex()
        >>> index.add([{"id": "a"}, {"id": "b"}], ["greasing the bearing", "changing the oil"])
        >>> [hit.entry["id"] for hit in index.search(["bearing grease"])[0]]
        ['a']
    """

    kind = "lexical"

    def __init__(
        self,
        segments: Segments | None = None,
        *,
        prefix: str = "",
        made_by: Mapping[str, str] | None = None,
        k1: float = 1.2,
        b: float = 0.75,
        tokenize: Callable[[str], list[str]] = words,
    ) -> None:
        super().__init__(segments, prefix=prefix, made_by=made_by, k1=k1, b=b)
        self.tokenize = tokenize

    def pack(self, rows: Sequence[str]) -> dict[str, Array]:
        """The postings of texts: hashes of their words, and for each word the rows with it and how often."""
        terms: list[int] = []
        documents: list[int] = []
        frequencies: list[int] = []
        lengths = np.zeros(len(rows), dtype=np.int32)
        for row, text in enumerate(rows):
            counts = Counter(self.tokenize(text))
            lengths[row] = counts.total()
            terms.extend(map(hash_of, counts))
            frequencies.extend(counts.values())
            documents.extend([row] * len(counts))
        hashes = np.array(terms, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        known, starts = np.unique(hashes[order], return_index=True)
        arrays: dict[str, Array] = {
            "terms": known,
            "terms_starts": np.append(starts, len(order)).astype(np.int64),
            "rows": np.array(documents, dtype=np.int32)[order],
            "frequencies": np.array(frequencies, dtype=np.int32)[order],
            "lengths": lengths,
        }
        return {self.prefix + name: array for name, array in arrays.items()}

    def scores(
        self, queries: Sequence[str] | str, allowed: NDArray[np.bool_], *, unmatched: bool = False
    ) -> Iterable[NDArray[np.float32]]:
        """BM25 scores of every query.

        Args:
            queries: Texts. A word that a query repeats counts as often as it occurs.
            allowed: Rows that may be found.
            unmatched: Whether a row that shares no word with the query has the score 0; otherwise it is not found.
        """
        parts = self.segments.parts
        lengths = [self._array(part, "lengths") for part in parts]
        counts = [int(part.alive.sum()) for part in parts]
        total = sum(counts)
        words_in_all = sum(int(held[part.alive].sum(dtype=np.int64)) for held, part in zip(lengths, parts, strict=True))
        mean = words_in_all / total if words_in_all else 1.0
        return [
            self._scores_of(query, allowed, lengths, total, mean, unmatched=unmatched)
            for query in ([queries] if isinstance(queries, str) else queries)
        ]

    def telling(self, query: str) -> set[str]:
        """Words of a query that at most half of the pages hold; all of its words where that leaves none.

        So are those of few pages: half of them says nothing about a word.
        """
        asked = set(self.tokenize(query))
        parts, total = self.segments.parts, sum(int(part.alive.sum()) for part in self.segments.parts)
        held = {word: sum(int(part.alive[self._postings(part, word)[0]].sum()) for part in parts) for word in asked}
        return {word for word in asked if 2 * held[word] <= total or total < FEW} or asked

    def _scores_of(
        self,
        query: str,
        allowed: NDArray[np.bool_],
        lengths: Sequence[Array],
        total: int,
        mean: float,
        *,
        unmatched: bool,
    ) -> NDArray[np.float32]:
        k1, b = self.settings["k1"], self.settings["b"]
        starts = self.segments.starts()
        scores = np.zeros(len(allowed), dtype=np.float32)
        for word, times in Counter(self.tokenize(query)).items():
            postings = [self._postings(part, word) for part in self.segments.parts]
            holders = sum(
                int(part.alive[rows].sum()) for part, (rows, _) in zip(self.segments.parts, postings, strict=True)
            )
            if not holders:
                continue
            idf = np.log1p((total - holders + 0.5) / (holders + 0.5))
            for number, (rows, frequency) in enumerate(postings):
                often = frequency.astype(np.float64)
                norm = k1 * (1 - b + b * lengths[number][rows] / mean)
                weights = (idf * often / (often + norm)).astype(np.float32)
                scores[starts[number] + rows] += times * weights
        scores[~allowed] = MISSING
        if not unmatched:
            scores[scores == 0] = MISSING
        return scores

    def _array(self, part: Part, name: str) -> Array:
        return part.arrays[self.prefix + name]

    def _postings(self, part: Part, word: str) -> tuple[Array, Array]:
        """Rows of a segment that hold a word, and how often each does."""
        terms, starts = self._array(part, "terms"), self._array(part, "terms_starts")
        term = hash_of(word)
        at = int(np.searchsorted(terms, np.uint64(term)))
        if at == len(terms) or int(terms[at]) != term:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        here = slice(int(starts[at]), int(starts[at + 1]))
        return self._array(part, "rows")[here], self._array(part, "frequencies")[here]


@lru_cache(maxsize=1 << 18)
def hash_of(word: str) -> int:
    """64 bits that stand for a word."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
