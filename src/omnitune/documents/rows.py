"""Documents that were read become the rows of a dataset: groups, split, queries, filters, in this order.

The split knows how many questions a test could ask about every document, and nothing else of them. Nothing that is
counted for training (the rarity of words, the round trip) looks at a held-out page.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from omnitune.documents.duplicates import families, groups
from omnitune.documents.folder import Listing
from omnitune.documents.kinds import PAGES, Kind
from omnitune.documents.queries import extract
from omnitune.documents.queries.captions import UNDERSTOOD, Captions
from omnitune.documents.queries.extract import Query
from omnitune.documents.read.text import normalize_key
from omnitune.documents.reading import source_of
from omnitune.documents.splits import HELD_OUT, Share, Side, Split, SplitPage, split_pages
from omnitune.documents.stored import Document, StoredPage
from omnitune.errors import DatasetError
from omnitune.installation import pip_install
from omnitune.ops.bm25 import BM25

Keep = Callable[[Sequence[str], Sequence[str], Mapping[str, str]], Sequence[bool]]
"""Says which queries to keep, given the queries, the ids of their pages and the texts of all training pages."""

PageWriter = Callable[[Sequence[Path]], Sequence[Sequence[str]]]
"""Questions about page images, for the pages that are trained on."""

QUERY_VERSION = 3
"""Raise it when queries are made differently, so that datasets are made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Settings of how queries are made and dealt out; see `dataset.prepare` for what each means."""

    split: Literal["documents", "pages"]
    test: Share
    validation: Share
    seed: int
    similarity: float
    sentences: int
    round_trip: int


@dataclass(slots=True, kw_only=True)
class Rows:
    """Rows of the dataset's tables (see `dataset`), and what was left out on the way.

    Attributes:
        pages: One for every page.
        train: One for every training pair.
        asked: Held-out queries by side.
        dropped: Number of queries by the reason they were dropped for.
    """

    pages: list[dict[str, Any]]
    train: list[dict[str, Any]] = field(default_factory=list)
    asked: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)


def page_id(document: str, number: int) -> str:
    """Unique name of a page: its document and its number from 1."""
    return f"{document}#{number}"


def check_captions(documents: Sequence[Document], captions: Captions, listing: Listing) -> None:
    """Stop where nobody wrote about any recording or clip, before any is recognised: pages say it themselves.

    Raises:
        DatasetError: There are no captions.
    """
    if not any(document.captions for document in documents):
        broken = "".join(f"\n  {name}: {reason}" for name, reason in captions.broken.items())
        raise DatasetError(
            f"folder: expected captions of the {listing.kind.name} in {str(listing.folder)!r}, which become the "
            f"queries, found none. They are read from {UNDERSTOOD}{broken}"
        )


def make_rows(
    documents: Sequence[Document],
    choices: Choices,
    keep: Keep | None = None,
    write: Callable[[Sequence[StoredPage]], Sequence[Sequence[str]]] | None = None,
    kind: Kind = PAGES,
) -> Rows:
    """Group, split, question and filter the pages of some documents.

    Args:
        documents: As read.
        choices: How queries are made and dealt out.
        keep: A further filter of training queries.
        write: Questions about training pages, instead of those made of their sentences.
        kind: What the documents are.

    Raises:
        DatasetError: There are too few documents to hold one out, or no query can be made for a side.
    """
    dropped: Counter[str] = Counter()
    written: dict[str, list[Query]] = {}  # by people: lines of a document, or captions beside it
    for document in documents:
        if kind.captioned:
            written[document.name], refused = extract.caption_queries(document)
            dropped.update(refused)
        else:
            written[document.name] = extract.written_queries(document)
    pages = _split_pages(documents, written, choices.similarity, kind)
    split = split_pages(pages, by=choices.split, test=choices.test, validation=choices.validation, seed=choices.seed)
    rows = Rows(pages=[*_page_rows(documents, pages, split)], dropped=dropped)
    answers = _answers(chain.from_iterable(written.values()), pages)
    for side in HELD_OUT:
        asked = [*_held_out(documents, written, split, side, answers)]
        if asked:
            rows.asked[side] = asked
    usable = set(split.pages("train"))
    candidates = [
        query
        for document in documents
        for query in written[document.name]
        if page_id(document.name, query.page) in usable
    ]
    if kind.own_text or write is not None:
        candidates += _made_queries(documents, usable, choices.sentences, write)
    rows.train = _training(candidates, usable, choices, keep, rows, kind)
    _check_not_empty(rows, kind)
    return rows


def page_groups(texts: Sequence[str], fingerprints: Sequence[str], kind: Kind, similarity: float) -> list[int]:
    """Groups of near-duplicates, see `duplicates.groups`; what a model read says nothing about them."""
    return groups(texts if kind.own_text else [""] * len(texts), fingerprints, similarity=similarity)


# --- pages ------------------------------------------------------------------------------------------------------------


def _split_pages(
    documents: Sequence[Document], written: Mapping[str, Sequence[Query]], similarity: float, kind: Kind
) -> list[SplitPage]:
    all_pages = [(document, page) for document in documents for page in document.pages]
    texts, fingerprints = [page.text for _, page in all_pages], [page.fingerprint for _, page in all_pages]
    group_of = page_groups(texts, fingerprints, kind, similarity)
    family_of = families([[page.text for page in document.pages] for document in documents])
    number = {document.name: index for index, document in enumerate(documents)}
    askable = {(one.name, normalize_key(query.text)): query for one in documents for query in _askable(one, written)}
    asked = Counter(page_id(query.document, query.page) for query in askable.values())
    return [
        SplitPage(
            page_id=page_id(document.name, page.number),
            document=document.name,
            group=group,
            family=family_of[number[document.name]],
            queries=asked[page_id(document.name, page.number)],
        )
        for (document, page), group in zip(all_pages, group_of, strict=True)
    ]


def _page_rows(documents: Sequence[Document], pages: Sequence[SplitPage], split: Split) -> Iterator[dict[str, Any]]:
    stored = (page for document in documents for page in document.pages)
    for page, known in zip(stored, pages, strict=True):
        yield {
            "page_id": known.page_id,
            "document": known.document,
            "number": page.number,
            "label": page.label,
            "side": split.side[known.page_id],
            "image": f"images/{page.image}",
            "text": page.text,
            "text_source": source_of(page),
            "group": known.group,
            "left_out_for": split.left_out.get(known.page_id, ""),
            "fingerprint": page.fingerprint,
        }


# --- held-out queries -------------------------------------------------------------------------------------------------


def _answers(written: Iterator[Query], pages: Sequence[SplitPage]) -> dict[str, set[str]]:
    """Pages that answer a query by its normalized text: wherever it is written, and the near-duplicates of those."""
    group = {page.page_id: page.group for page in pages}
    alike: dict[int, set[str]] = {}
    for page in pages:
        alike.setdefault(page.group, set()).add(page.page_id)
    found: dict[str, set[str]] = {}
    for query in written:
        found.setdefault(normalize_key(query.text), set()).update(alike[group[page_id(query.document, query.page)]])
    return found


def _askable(document: Document, written: Mapping[str, Sequence[Query]]) -> Iterator[Query]:
    """Questions about a document that may measure a model."""
    allowed = ["title", "caption"] if document.outline else ["title", "caption", "heading"]
    if not any(query.origin in allowed for query in written[document.name]):
        allowed.append("sentence")  # of the subtitles of a recording: those of a page come later, for training alone
    yield from (query for query in written[document.name] if query.origin in allowed)


def _held_out(
    documents: Sequence[Document],
    written: Mapping[str, Sequence[Query]],
    split: Split,
    side: Side,
    answers: Mapping[str, set[str]],
) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for document in documents:
        for query in _askable(document, written):
            page, mark = page_id(document.name, query.page), normalize_key(query.text)
            if split.side[page] != side or page in split.left_out or mark in seen:
                continue
            seen.add(mark)
            yield {
                "query_id": f"{side}-{len(seen)}",
                "query": query.text,
                "page_ids": sorted(answers[mark]),
                "origin": query.origin,
                "document": document.name,
            }


# --- training pairs ---------------------------------------------------------------------------------------------------


def _training(
    candidates: list[Query], usable: set[str], choices: Choices, keep: Keep | None, rows: Rows, kind: Kind
) -> list[dict[str, Any]]:
    own = {row["page_id"]: row["text"] if kind.own_text else "" for row in rows.pages}
    texts = {page: text for page, text in own.items() if page in usable}
    order = {row["document"]: index for index, row in enumerate(rows.pages)}
    candidates.sort(key=lambda query: (order[query.document], query.page))
    test_marks = {normalize_key(row["query"]) for asked in rows.asked.values() for row in asked}
    kept: list[Query] = []
    for query in candidates:
        reason = refusal(query.text, texts[page_id(query.document, query.page)], written=query.origin == "model")
        if normalize_key(query.text) in test_marks:
            reason = "also asked in the test"
        if reason:
            rows.dropped[reason] += 1
        else:
            kept.append(query)
    if choices.round_trip:
        kept = _filtered(kept, texts, round_trip(choices.round_trip), rows.dropped, "round trip")
    if keep is not None:
        kept = _filtered(kept, texts, keep, rows.dropped, "keep")
    image = {row["page_id"]: row["image"] for row in rows.pages}
    ids = [page_id(query.document, query.page) for query in kept]
    return [
        {"query": query.text, "page_id": page, "image": image[page], "origin": query.origin, "document": query.document}
        for query, page in zip(kept, ids, strict=True)
    ]


def _made_queries(
    documents: Sequence[Document],
    usable: set[str],
    per_page: int,
    write: Callable[[Sequence[StoredPage]], Sequence[Sequence[str]]] | None,
) -> list[Query]:
    pages = [
        (document, page)
        for document in documents
        for page in document.pages
        if page_id(document.name, page.number) in usable
    ]
    origin: extract.Origin = "sentence" if write is None else "model"
    if write is None:
        made: Sequence[Sequence[str]] = extract.key_sentences([page for _, page in pages], per_page)
    else:
        pages = [(document, page) for document, page in pages if page.fingerprint and not extract.is_listing(page.text)]
        made = write([page for _, page in pages])
    return [
        Query(text=text, origin=origin, document=document.name, page=page.number)
        for (document, page), texts in zip(pages, made, strict=True)
        for text in texts
    ]


def refusal(query: str, page_text: str, *, written: bool) -> str:
    """Say why a training query is dropped, or "".

    Args:
        query: Its text.
        page_text: Text of its page.
        written: Whether a model wrote it: what is taken from a page has passed the other filters.
    """
    if not extract.keeps_language(query, page_text):
        return "other script than its page"
    if written and extract.points_at_page(query):
        return "points at its page"
    if written and extract.copies(query, page_text):
        return f"copies {extract.COPIED} words in a row"
    return "no question" if written and not extract.acceptable(query) else ""


def _filtered(
    queries: Sequence[Query], texts: Mapping[str, str], keep: Keep, dropped: Counter[str], reason: str
) -> list[Query]:
    verdicts = keep([query.text for query in queries], [page_id(q.document, q.page) for q in queries], texts)
    kept = [query for query, good in zip(queries, verdicts, strict=True) if good]
    dropped[reason] += len(queries) - len(kept)
    return kept


def round_trip(depth: int) -> Keep:
    """Keeps a query whose page is among the first `depth` that BM25 finds for it; a page without text passes."""

    def keep(queries: Sequence[str], pages: Sequence[str], texts: Mapping[str, str]) -> list[bool]:
        if len(texts) <= depth or not queries:
            return [True] * len(queries)
        row = {page: index for index, page in enumerate(texts)}
        _, found = BM25(list(texts.values())).top_k(queries, depth)
        hits = found.tolist()
        return [not texts[page] or row[page] in hit for page, hit in zip(pages, hits, strict=True)]

    return keep


def _check_not_empty(rows: Rows, kind: Kind) -> None:
    for side, made in (("test", rows.asked.get("test")), ("train", rows.train)):
        if made:
            continue
        pages = [row for row in rows.pages if row["side"] == side]
        if kind.captioned:
            lack = f"no captions; they are read from {UNDERSTOOD}"
        elif any(row["text"] for row in pages):
            lack = (
                "no outline, captions or headings; hold out documents that have some, with test=[...] of `prepare` or "
                "`prepare: {test: [...]}` in a recipe"
            )
        else:
            lack = f"no text; pass reader=..., which reads page images (installed by {pip_install('ocr')})"
        named = ", ".join(dict.fromkeys(row["document"] for row in pages))
        raise DatasetError(
            f"folder: no {side} queries can be made: {len(pages)} {kind.words.page}(s) of {named} have {lack}"
        )
