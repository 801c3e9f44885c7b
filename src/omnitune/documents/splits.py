"""Split documents into train, validation and test: each is dealt out whole.

Two pages of one document share their wording, so a page is on the side of its document. Documents that share most of
their text (two versions of one manual) stay together, and a page whose near-duplicate is on a more protected side is
left out of its own: test before validation before train.
"""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal
from unicodedata import normalize

from omnitune.errors import DatasetError, LeakageError

logger = logging.getLogger(__name__)

Side = Literal["train", "validation", "test"]
HELD_OUT: tuple[Side, ...] = ("test", "validation")
SIDES: tuple[Side, ...] = (*HELD_OUT, "train")
"""The most protected first."""

Share = float | Sequence[str]
"""A share of all pages, or the names of documents."""

FEWEST = 30
"""Pages of a side, and questions about them, below which measuring on it tells little: an NDCG of 0.9 with 30 queries
is known to about 0.1."""

MOST_STARTS = 200
"""Documents that a larger test is begun with, in turn; folders with more reach `FEWEST` by share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPage:
    """A page as a split sees it.

    Attributes:
        page_id: Unique name of the page.
        document: Name of its document.
        group: Number of its group of near-duplicates.
        family: Number of its document's family.
        queries: Questions that a test could ask about it.
    """

    page_id: str
    document: str
    group: int
    family: int
    queries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Sides of pages.

    Attributes:
        side: Side of every page by its id.
        left_out: Pages that may not be used on their side, and the page that forbids it. They stay in the corpus.
    """

    side: dict[str, Side]
    left_out: dict[str, str] = field(default_factory=dict)

    def pages(self, side: Side) -> list[str]:
        """Pages that queries of a side may be made from, in order."""
        return [page for page, where in self.side.items() if where == side and page not in self.left_out]


def split_pages(
    pages: Sequence[SplitPage],
    *,
    by: Literal["documents", "pages"] = "documents",
    test: Share = 0.2,
    validation: Share = 0.0,
    seed: int = 0,
) -> Split:
    """Deal pages out to train, validation and test.

    Args:
        pages: All pages, in order.
        by: `"documents"` keeps documents whole; `"pages"` cuts every document into page ranges, which makes the test
            easier than life, and is meant for a folder that holds one document.
        test: Share of the pages, or documents by name (`"R-data.pdf"`, `"R-data"`, or a pattern `"2023/*"`). Where
            the share has fewer than `FEWEST` pages or questions, more or other documents are taken until it has them,
            or as near to it as leaves half of all pages for training.
        validation: The same; 0 makes none.
        seed: Of the dealing by share.

    Raises:
        DatasetError: There are too few documents, or a name fits none.
    """
    if by == "pages":
        dealt = _by_ranges(pages, test, validation)
    else:
        by_document = _by_documents(pages, test, validation, seed)
        dealt = {page.page_id: by_document[page.document] for page in pages}
    first: dict[tuple[int, Side], str] = {}
    for page in pages:
        first.setdefault((page.group, dealt[page.page_id]), page.page_id)
    left_out: dict[str, str] = {}  # near-duplicates of a page on a more protected side, and that page
    for page in pages:
        for stronger in SIDES[: SIDES.index(dealt[page.page_id])]:
            if (page.group, stronger) in first:
                left_out[page.page_id] = first[page.group, stronger]
                break
    return Split(side=dealt, left_out=left_out)


def leaks(groups: Mapping[str, int], training: Sequence[str], held_out: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of a page in training and a held-out page that is the same or its near-duplicate.

    Args:
        groups: Number of the group of near-duplicates of every page by its id.
        training: Ids of the pages in training.
        held_out: Ids of pages that training must not see.
    """
    forbidden: dict[int, str] = {}
    for page in held_out:
        forbidden.setdefault(groups[page], page)
    return [(page, forbidden[groups[page]]) for page in dict.fromkeys(training) if groups[page] in forbidden]


def raise_leaks(found: Sequence[tuple[str, str]]) -> None:
    """Stop where something leaks.

    Raises:
        LeakageError: `found` is not empty; lists the pages.
    """
    if found:
        listed = "\n".join(f"  {page} is, or nearly is, held-out page {held}" for page, held in found)
        raise LeakageError(
            f"train: expected no page of the test or validation, got {len(found)}:\n{listed}\n"
            "Take them out of training, or prepare the dataset anew."
        )


def too_few(pages: int, queries: int) -> bool:
    """Tell whether a side with so many pages and questions tells little."""
    return min(pages, queries) < FEWEST


def _by_documents(pages: Sequence[SplitPage], test: Share, validation: Share, seed: int) -> dict[str, Side]:
    sizes: dict[str, tuple[int, int]] = {}
    family: dict[str, int] = {}
    for page in pages:
        count, queries = sizes.get(page.document, (0, 0))
        sizes[page.document] = count + 1, queries + page.queries
        family[page.document] = page.family
    families, needed = len(set(family.values())), 1 + bool(test) + bool(validation)
    if families < needed:
        alike = f" ({len(sizes)} files that share most of their text count as one)" if families < len(sizes) else ""
        raise DatasetError(
            f"folder: expected at least {needed} different documents, because the test asks about documents that "
            f"training never saw; got {families}{alike}. Add documents, or allow a test on other pages of the same "
            "document, which flatters the model, with split='pages'"
        )
    shares = dict(zip(HELD_OUT, (test, validation), strict=True))
    dealt: dict[str, Side] = {}
    for side, share in shares.items():
        if not isinstance(share, float | int):
            free = [name for name in sizes if name not in dealt]
            dealt |= dict.fromkeys(_with_families(_named(share, list(sizes), side), free, family), side)
    to_deal = {side: share for side, share in shares.items() if isinstance(share, float | int) and share > 0}
    for place, (side, share) in enumerate(to_deal.items()):
        units: dict[int, list[str]] = {}
        for name in sizes:
            if name not in dealt:
                units.setdefault(family[name], []).append(name)
        weights = {unit: _total(sizes[name] for name in names) for unit, names in units.items()}
        chosen = _deal(weights, share, len(pages), seed, leave=len(to_deal) - place)
        dealt |= dict.fromkeys((name for unit in chosen for name in units[unit]), side)
    if len(dealt) == len(sizes) or not set(to_deal) <= set(dealt.values()):
        raise DatasetError(
            f"test, validation: expected documents for every side and some to train on, got {len(sizes)} in all; "
            "name fewer, or lower the shares"
        )
    return {name: dealt.get(name, "train") for name in sizes}


def _deal(units: Mapping[int, tuple[int, int]], share: float, pages: int, seed: int, *, leave: int) -> list[int]:
    """Choose families for a side: in random order to about its share, one at least, and `leave` not.

    Where that tells little, every family in turn begins a side that the others fill up in the same order; the fullest
    is taken that leaves half of all pages, and of equally full ones the nearest to the share.

    Args:
        units: Pages and questions of the families that are free.
        share: Of `pages`, which are all.
        pages: Of the folder.
        seed: Of the order.
        leave: Families that must be left.
    """
    order = sorted(units)
    random.Random(seed).shuffle(order)
    wanted, most = share * pages, len(order) - leave
    dealt: list[int] = []
    size = 0
    for unit in order:
        more = units[unit][0]
        if len(dealt) < most and abs(size + more - wanted) < abs(size - wanted):
            dealt.append(unit)
            size += more
    if not dealt and most > 0:
        dealt = [min(order, key=lambda unit: (units[unit][0], unit))]
    if not too_few(*_total(units[unit] for unit in dealt)):
        return dealt

    def fullness(size: int, queries: int) -> int:
        return min(FEWEST, size, queries)

    free = sum(count for count, _ in units.values()) - pages / 2
    sides = [dealt]
    for first in order[:MOST_STARTS]:
        taken: list[int] = []
        size = queries = 0
        for unit in [first, *(other for other in order if other != first)]:
            more, asked = size + units[unit][0], queries + units[unit][1]
            if more <= free and len(taken) < most and fullness(more, asked) > fullness(size, queries):
                taken.append(unit)
                size, queries = more, asked
        sides.append(taken or dealt)

    def value(side: list[int]) -> tuple[int, float]:
        size, queries = _total(units[unit] for unit in side)
        return fullness(size, queries), -abs(size - wanted)

    return max(sides, key=value)


def _total(counts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Pages and questions of several documents together."""
    some = [*counts]
    return sum(pages for pages, _ in some), sum(queries for _, queries in some)


def _named(names: Sequence[str], documents: Sequence[str], side: str) -> list[str]:
    found: list[str] = []
    for given in names:
        name = normalize("NFC", given)  # a Mac writes the letters of its file names apart
        spelled = {document: normalize("NFC", document) for document in documents}
        matching = [
            document
            for document, own in spelled.items()
            if name in (own, PurePosixPath(own).name, PurePosixPath(own).stem) or fnmatchcase(own, name)
        ]
        if not matching:
            raise DatasetError(f"{side}: expected names of documents, got {name!r}; there are: {', '.join(documents)}")
        found += [document for document in matching if document not in found]
    return found


def _with_families(named: Sequence[str], free: Sequence[str], family: Mapping[str, int]) -> list[str]:
    held = {family[name] for name in named}
    whole = [name for name in free if family[name] in held]
    for name in whole:
        if name not in named:
            logger.warning("%s shares most of its text with a held-out document and is held out with it", name)
    return whole


def _by_ranges(pages: Sequence[SplitPage], test: Share, validation: Share) -> dict[str, Side]:
    """The last pages of every document are the test, those before them validation."""
    if not isinstance(test, float | int) or not isinstance(validation, float | int):
        raise DatasetError("test, validation: expected shares of the pages with split='pages', got names of documents")
    by_document: dict[str, list[str]] = {}
    for page in pages:
        by_document.setdefault(page.document, []).append(page.page_id)
    dealt: dict[str, Side] = {}
    for ids in by_document.values():
        tested, validated = round(len(ids) * test), round(len(ids) * validation)
        trained = len(ids) - tested - validated
        sides: list[tuple[Side, int]] = [("train", trained), ("validation", validated), ("test", tested)]
        dealt |= dict(zip(ids, [side for side, count in sides for _ in range(count)], strict=True))
    return dealt
