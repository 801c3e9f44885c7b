"""BM25 over texts: the lexical baseline that a finetuned retriever has to beat.

The variant is Lucene's (since version 8): idf = ln(1 + (N - df + 0.5) / (df + 0.5)), term weight
idf * tf / (tf + k1 * (1 - b + b * length / mean length)), with exact lengths where Lucene stores a byte.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnitune.errors import InputError

_WORD = re.compile(r"\w+")
_SCORES_AT_ONCE = 1 << 24


def words(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and underscores, after NFKC normalisation.

    Scripts written without spaces come out as whole clauses; pass BM25 a tokenizer that knows them.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


class BM25:
    """Scores of texts for queries.

    Args:
        corpus: The texts.
        k1: How fast repeated occurrences of a word stop counting.
        b: How much long texts are held back, from 0 to 1.
        tokenize: Splits a text or a query into words.

    Raises:
        InputError: `corpus` is empty.

    Source:
        Robertson and Zaragoza 2009; Kamphuis et al. 2020 on the variants ("Lucene (accurate)").
    """

    def __init__(
        self,
        corpus: Sequence[str],
        *,
        k1: float = 1.2,
        b: float = 0.75,
        tokenize: Callable[[str], list[str]] = words,
    ) -> None:
        if not corpus:
            raise InputError("corpus: expected at least one text, got none")
        self.tokenize = tokenize
        self.size = len(corpus)
        vocabulary: dict[str, int] = {}
        terms: list[int] = []
        documents: list[int] = []
        frequencies: list[int] = []
        lengths = np.zeros(len(corpus), dtype=np.float64)
        for row, text in enumerate(corpus):
            counts = Counter(tokenize(text))
            lengths[row] = counts.total()
            terms.extend(vocabulary.setdefault(word, len(vocabulary)) for word in counts)
            frequencies.extend(counts.values())
            documents.extend([row] * len(counts))
        self.vocabulary = vocabulary
        self._index(np.array(terms, dtype=np.int64), np.array(documents, dtype=np.int64), frequencies, lengths, k1, b)

    def _index(
        self,
        terms: NDArray[np.int64],
        documents: NDArray[np.int64],
        frequencies: Sequence[int],
        lengths: NDArray[np.float64],
        k1: float,
        b: float,
    ) -> None:
        """Postings by term: from `starts[t]` to `starts[t + 1]`, the documents of term t and its weight in them."""
        holders = np.bincount(terms, minlength=len(self.vocabulary))
        idf = np.log1p((self.size - holders + 0.5) / (holders + 0.5))
        mean = lengths.mean() or 1.0
        frequency = np.array(frequencies, dtype=np.float64)
        weights = idf[terms] * frequency / (frequency + k1 * (1 - b + b * lengths[documents] / mean))
        order = np.argsort(terms, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(holders)])
        self._documents = documents[order]
        self._weights = weights[order].astype(np.float32)

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Score of every text for every query `(queries, texts)`; 0 where they share no word.

        A word that a query repeats counts as often as it occurs.
        """
        scores = np.zeros((len(queries), self.size), dtype=np.float32)
        for row, query in zip(scores, queries, strict=True):
            for word, times in Counter(self.tokenize(query)).items():
                term = self.vocabulary.get(word)
                if term is not None:
                    postings = slice(self._starts[term], self._starts[term + 1])
                    row[self._documents[postings]] += times * self._weights[postings]
        return scores

    def top_k(self, queries: Sequence[str], k: int) -> tuple[Tensor, Tensor]:
        """The best texts of every query, equal scores in corpus order.

        Returns:
            Scores `(queries, min(k, texts))` float32 and rows of the texts, int64. Texts that share no word with the
            query are not found: their places hold the score 0 and the row -1.
        """
        width = min(k, self.size)
        step = max(1, _SCORES_AT_ONCE // self.size)
        parts = [
            torch.sort(
                torch.from_numpy(self.scores(queries[start : start + step])), dim=1, descending=True, stable=True
            )
            for start in range(0, len(queries), step)
        ]
        scores = torch.cat([part.values[:, :width] for part in parts]) if parts else torch.zeros(0, width)
        rows = torch.cat([part.indices[:, :width] for part in parts]) if parts else torch.zeros(0, width).long()
        return scores, rows.where(scores > 0, -1)
