"""Pages that are nearly the same page, and documents that are nearly the same document.

Texts are compared by their runs of three words (shingles). MinHash signatures, cut into bands, propose the pairs that
are worth comparing, so the work grows with the number of pages and not with its square: 10,000 pages take 5 s. Pages
without text are compared by the difference hash of their image, whose bands find every pair that differs in fewer bits
than there are bands. Blank pages are one group. A fingerprint may be several hashes in a row (frames, sound): the
bands of the first propose pairs, and all must be alike.

Source:
    Broder 1997 (resemblance and MinHash); Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, ch. 3 (banding).
"""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from omnitune.documents.read.text import normalize_key, terms

FEWEST_WORDS = 12
"""A page with fewer words than this says too little to be compared by its text."""

LONG = 1000
"""Distinct shingles of a document, about four pages of text, from which it is compared with others as a whole."""
CONTAINED = 0.5
"""Share of the smaller document's shingles from which two documents are one family."""
MOST_HOLDERS = 50
"""Text in more documents than this is a formula of the house and is not counted any further."""

HASHES = 64
BANDS = 16
"""With 4 hashes a band, a pair of similarity 0.8 is proposed with probability 0.9998, one of 0.3 with 0.12."""

HASH_DIGITS = 64
LOOK_BANDS = 16
"""Of 16 bits each."""
LOOK_BITS = 12
"""Of 256. Measured on nine manuals: a page saved again as a coarse JPEG, smaller or paler differs in at most 18 bits,
nearly always in at most 12; two different pages that are not almost empty differ in at least 16."""
LOOK_SHARE = 4
"""Almost empty pages set few bits; they must agree in all but this part of those."""

Signature = NDArray[np.uint64]


def groups(texts: Sequence[str], fingerprints: Sequence[str], *, similarity: float = 0.8) -> list[int]:
    """Number the groups of near-duplicate pages.

    Args:
        texts: Text of every page, "" where there is none.
        fingerprints: Difference hash of every page's image, 64 hex digits, or equally many such; "" where it is blank.
        similarity: Jaccard similarity of the sets of shingles from which two texts are near-duplicates.

    Returns:
        For each page the index of the first page of its group; a page without a near-duplicate is its own group.
    """
    shingled = [shingles(text) for text in texts]
    sets = _Sets(len(texts))
    worded = [index for index, found in enumerate(shingled) if len(found)]
    if worded:
        signatures = minhash([shingled[index] for index in worded])
        rows = HASHES // BANDS
        for band in range(BANDS):
            buckets: dict[bytes, list[int]] = defaultdict(list)
            for position, index in enumerate(worded):
                buckets[signatures[position, band * rows : (band + 1) * rows].tobytes()].append(index)
            for bucket in buckets.values():
                _join_bucket(bucket, sets, lambda one, other: _jaccard(shingled[one], shingled[other]) >= similarity)
    wordless = [index for index, found in enumerate(shingled) if not len(found)]
    blank = [index for index in wordless if not fingerprints[index]]
    looks: dict[tuple[int, str], list[int]] = defaultdict(list)
    digits = HASH_DIGITS // LOOK_BANDS
    for index in wordless:
        for band in range(LOOK_BANDS if fingerprints[index] else 0):
            looks[band, fingerprints[index][band * digits : (band + 1) * digits]].append(index)

    def alike(one: int, other: int) -> bool:
        parts = range(0, len(fingerprints[one]), HASH_DIGITS)
        return normalize_key(texts[one]) == normalize_key(texts[other]) and all(
            _alike(fingerprints[one][at : at + HASH_DIGITS], fingerprints[other][at : at + HASH_DIGITS]) for at in parts
        )

    for bucket in looks.values():
        _join_bucket(bucket, sets, alike)
    for index in blank[1:]:
        sets.join(blank[0], index)
    return [sets.first(index) for index in range(len(texts))]


def families(documents: Sequence[Sequence[str]]) -> list[int]:
    """Number the families of documents that share much of their text, such as two versions of one manual.

    Page breaks move between versions, so pages alone do not show them. Short documents are not compared: letters and
    forms of one template share most of their words and still say different things.

    Args:
        documents: The texts of the pages of every document.

    Returns:
        For each document the index of the first document of its family.
    """
    distinct = [np.unique(np.concatenate([shingles(text) for text in pages])) for pages in documents]
    samples = [values[values % np.uint64(8) == 0] if len(values) >= LONG else values[:0] for values in distinct]
    holders: dict[int, list[int]] = defaultdict(list)
    shared: dict[tuple[int, int], int] = defaultdict(int)
    for index, sample in enumerate(samples):
        for shingle in sample.tolist():
            if len(holders[shingle]) < MOST_HOLDERS:
                for other in holders[shingle]:
                    shared[other, index] += 1
                holders[shingle].append(index)
    sets = _Sets(len(documents))
    for (one, other), count in shared.items():
        if count >= CONTAINED * min(len(samples[one]), len(samples[other])):
            sets.join(one, other)
    return [sets.first(index) for index in range(len(documents))]


def shingles(text: str) -> Signature:
    """Hashes of the distinct runs of three words of a text, sorted; none for a text of a few words."""
    tokens = terms(text)
    if len(tokens) < FEWEST_WORDS:
        return np.empty(0, dtype=np.uint64)
    single = np.array([zlib.crc32(token.encode()) for token in tokens], dtype=np.uint64)
    mixed = single[:-2] * np.uint64(0x9E3779B97F4A7C15) + single[1:-1] * np.uint64(0xC2B2AE3D27D4EB4F)
    # Spread evenly, so that their low bits can be used as a sample.
    values = mixed + single[2:] * np.uint64(0x165667B19E3779F9)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return np.unique(values ^ (values >> np.uint64(29)))


def _alike(one: str, other: str) -> bool:
    """Tell whether two hashes differ in few bits."""
    first, second = int(one, 16), int(other, 16)
    return (first ^ second).bit_count() <= min(LOOK_BITS, first.bit_count() // LOOK_SHARE)


def _join_bucket(bucket: Sequence[int], sets: "_Sets", alike: Callable[[int, int], bool]) -> None:
    """Join the members of a bucket that are alike, comparing each with one member of every group met so far."""
    leaders: list[int] = []
    for index in bucket:
        if any(sets.same(leader, index) for leader in leaders):
            continue
        match = next((leader for leader in leaders if alike(leader, index)), None)
        if match is None:
            leaders.append(index)
        else:
            sets.join(match, index)


def minhash(sets: Sequence[Signature]) -> Signature:
    """Signatures `(sets, HASHES)`: the share of equal entries of two estimates their Jaccard similarity."""
    generator = np.random.default_rng(20240229)
    odd = generator.integers(1, 1 << 63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    shift = generator.integers(0, 1 << 63, HASHES, dtype=np.uint64)
    found = np.empty((len(sets), HASHES), dtype=np.uint64)
    for row, values in enumerate(sets):
        mixed = values[:, None] * odd + shift
        found[row] = (mixed ^ (mixed >> np.uint64(31))).min(axis=0)
    return found


def _jaccard(one: Signature, other: Signature) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


class _Sets:
    """Disjoint sets of numbers; the smallest member stands for its set."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def first(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index

    def same(self, one: int, other: int) -> bool:
        return self.first(one) == self.first(other)

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.first(one), self.first(other)))
        self._parent[high] = low


def members(group_of: Iterable[int]) -> Iterator[list[int]]:
    """The groups that have more than one member."""
    by_group: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(group_of):
        by_group[group].append(index)
    return (found for found in by_group.values() if len(found) > 1)
