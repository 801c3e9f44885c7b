"""From a folder of documents to a dataset (`documents.dataset` says what is in it), or what was made of it before.

`prepare` walks the folder once (`folder.list_folder`), has every document read page by page in processes of its own
(`folder.read_folder`, `read.worker`), takes each page's text from its best source (`reading.with_texts`), then splits
the documents and makes the queries (`rows.make_rows`), and writes the tables.
"""

import dataclasses
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset, DatasetDict

from omnitune.documents.card import write_card
from omnitune.documents.dataset import SCHEMA, DocumentDataset, check_leaks, load
from omnitune.documents.duplicates import members
from omnitune.documents.folder import Listing, Skipped, is_office, list_folder, read_folder
from omnitune.documents.kinds import KindName, Segmentation, segmentation_of
from omnitune.documents.queries.captions import Captions, read_captions
from omnitune.documents.read.pages import Rendering
from omnitune.documents.reading import PageReader, Reading, counted_sources, with_texts
from omnitune.documents.rows import QUERY_VERSION, Choices, Keep, PageWriter, Rows, check_captions, make_rows
from omnitune.documents.sources import note_source
from omnitune.documents.stored import IMAGES, LAYOUT_VERSION, Document
from omnitune.errors import DatasetError, InputError
from omnitune.folders import locked, replacing_folder, writable_folder
from omnitune.io import read_json_or_none, remove_file, write_json
from omnitune.places import PREPARED, TABLES, check_outside

logger = logging.getLogger(__name__)


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    kind: KindName | Literal["auto"] = "auto",
    width: int = 900,
    max_pixels: int = 4_000_000,
    office: Literal["auto", "drawn"] = "auto",
    segments: Segmentation = "auto",
    seconds: float = 15.0,
    split: Literal["documents", "pages"] = "documents",
    test: float | Sequence[str] = 0.2,
    validation: float | Sequence[str] = 0.0,
    seed: int = 0,
    sentences: int = 3,
    similarity: float = 0.8,
    round_trip: int = 100,
    reading: Reading = "auto",
    reader: PageReader | None = None,
    keep: Keep | None = None,
    writer: PageWriter | None = None,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> DocumentDataset:
    """Turn a folder of documents into a dataset, or open the one that it already became.

    Nothing that is made already is made again: not a document that was read, after a run that was killed or after
    others were added, and nothing at all when neither documents nor settings have changed.

    Args:
        folder: Documents (PDF files, images, office files and texts), recordings or clips, with its sub-folders.
        out: Where the dataset goes, outside of `folder`.
        kind: `"pages"`, `"recordings"` or `"clips"`: which files count; `"auto"` takes all, which must be of one kind.
        width: Width of a page image in pixels; most of a clip.
        max_pixels: Most pixels of a page image.
        office: Pages of Word, PowerPoint, Excel and OpenDocument files: `"auto"` has LibreOffice draw them where it is
            installed, and draws the text of those that it does not convert; `"drawn"` draws the text of all.
        segments: Where recordings are cut (`"silence"` or `"windows"`), or clips (`"shots"` or `"windows"`).
        seconds: Longest segment.
        split: `"documents"` tests on documents that training never saw; `"pages"` on other pages of the same ones.
        test: Share of the pages to hold out for the test, or names of documents.
        validation: The same for validation; 0 makes none.
        seed: Which documents are held out, where shares are given.
        sentences: Most training queries that are made of the sentences of one page.
        similarity: Jaccard similarity of three-word shingles from which two pages are near-duplicates.
        round_trip: A training query is kept if BM25 finds its page among so many; 0 keeps all.
        reading: Where the text of pages comes from: `"auto"` takes the text layer where it is sound and recognises the
            other pages, `"layer"` recognises none, `"recognise"` all.
        reader: Recognises the text of page images, or what is said or shown in a segment.
        keep: A further filter of training queries.
        writer: Writes questions about the images of training pages, instead of those made of their sentences.
        workers: Processes that read documents; None takes one a core.
        show_progress: Whether to show progress bars; None shows them in a terminal.

    Raises:
        DatasetError: The folder has no readable documents, too few, or nothing in them to ask about.
        InputError: This kind of document is not cut so; or `out` lies inside `folder`, or holds a file of someone else
            that would be overwritten; or all pages shall be recognised and there is no `reader`.
        LeakageError: A held-out page, or its near-duplicate, came into training.
        ResourceError: The disk is full, and what was made is kept; or `out` cannot be written to, or another process
            prepares there.

    Example:
        >>> dataset = prepare("manuals", "run/dataset", test=["kitchen.pdf"], round_trip=0)
        >>> dataset.pages_of("test")
        ['kitchen.pdf#1', 'kitchen.pdf#2']
    """
    started = time.perf_counter()
    folder = Path(folder)
    check_outside(folder, Path(out))
    out = writable_folder(Path(out).absolute())
    listing = list_folder(folder, kind)
    what = listing.kind
    _check_ours(out)
    rendering = Rendering(
        width=width,
        max_pixels=max_pixels,
        office=office,
        segments=segmentation_of(what, segments, seconds),
        seconds=float(seconds),
    )
    captions = read_captions(listing.folder, listing.paths) if what.captioned else None
    choices = Choices(
        split=split,
        test=test if isinstance(test, float | int) else tuple(test),
        validation=validation if isinstance(validation, float | int) else tuple(validation),
        seed=seed,
        similarity=similarity,
        sentences=sentences,
        round_trip=round_trip,
    )
    with locked(out, task="preparing"):
        documents, skipped = read_folder(listing, out, rendering, workers=workers, show_progress=show_progress)
        if captions is not None:
            documents = [
                replace(document, captions=(*document.captions, *captions.of.get(document.name, ())))
                for document in documents
            ]
            check_captions(documents, captions, listing)
            skipped += [Skipped(name=name, reason=reason) for name, reason in captions.broken.items()]
            for name, strangers in captions.unmatched.items():
                logger.warning(
                    "%s: %d row(s) name no file of the folder, such as %r", name, len(strangers), strangers[0]
                )
        settings = {**{name: getattr(rendering, name) for name in what.settings}, **dataclasses.asdict(choices)}
        if what.own_text:
            settings["reading"] = reading
        if any(map(is_office, listing.paths.values())):
            settings["office"] = office
        mark = _fingerprint(listing, documents, skipped, settings, [reader, keep, *([writer] if writer else [])])
        note_source(out, listing.folder)
        made = read_json_or_none(out / PREPARED)
        if isinstance(made, dict) and made.get("fingerprint") == mark and (out / TABLES).is_dir():
            with suppress(DatasetError):  # its tables are damaged: they are made again
                return load(out)
        documents = with_texts(documents, out / IMAGES, reader, reading)
        write = None if writer is None else lambda pages: writer([out / IMAGES / page.image for page in pages])
        rows = make_rows(documents, choices, keep, write, what)
        facts = _facts(listing, captions, settings, documents, skipped, rows)
        facts |= {"kind": what.name, "fingerprint": mark, "seconds": round(time.perf_counter() - started, 1)}
        return _save(out, rows, facts)


def _check_ours(out: Path) -> None:
    """Refuse a destination where a file of someone else would be overwritten.

    Raises:
        InputError: Names the file.
    """
    theirs = [name for name in (PREPARED, "README.md") if (out / name).exists()]
    known = isinstance(read_json_or_none(out / PREPARED), dict) or any((out / "documents").glob(f"{'?' * 64}.json"))
    if theirs and not known:
        raise InputError(
            f"out: expected a new folder, or one that `omnitune prepare` made, got {str(out)!r}, whose {theirs[0]} "
            "would be overwritten; name another folder"
        )


def _save(out: Path, rows: Rows, facts: dict[str, Any]) -> DocumentDataset:
    """Write the tables beside those that are there, check them, and only then let them take their place."""
    tables = {"pages": rows.pages, "train": rows.train, **rows.asked}
    made = DatasetDict({name: Dataset.from_list(some, features=SCHEMA[name]) for name, some in tables.items()})
    fresh = DocumentDataset(folder=out, tables=made, facts=facts)
    check_leaks(fresh)
    ours = {"dataset_dict.json", *SCHEMA}
    with replacing_folder(out / TABLES, gone=lambda path, _: path.parts[0] in ours) as place, _without_bars():
        made.save_to_disk(str(place))
        remove_file(out / PREPARED)
    write_card(out / "README.md", facts)
    write_json(out / PREPARED, facts)
    return load(out)


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of `datasets` for tables that take milliseconds."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _fingerprint(
    listing: Listing,
    documents: Sequence[Document],
    skipped: Sequence[Skipped],
    settings: Mapping[str, Any],
    hooks: Sequence[Any],
) -> str:
    """Changes exactly when the dataset would."""
    named = [getattr(hook, "identity", getattr(hook, "__qualname__", type(hook).__qualname__)) for hook in hooks]
    parts = [
        LAYOUT_VERSION,
        QUERY_VERSION,
        [[one.name, one.key, *map(dataclasses.astuple, one.captions)] for one in documents],
        [[one.name, *(lost.number for lost in one.lost)] for one in documents if one.lost],
        sorted(listing.others.items()),
        [one.name for one in skipped],
        settings,
        named,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _facts(
    listing: Listing,
    captions: Captions | None,
    settings: Mapping[str, Any],
    documents: Sequence[Document],
    skipped: Sequence[Skipped],
    rows: Rows,
) -> dict[str, Any]:
    asked = {"train": rows.train, "test": rows.asked.get("test", []), "validation": rows.asked.get("validation", [])}
    of_document = Counter(row["document"] for table in asked.values() for row in table)
    sides: dict[str, set[str]] = {}
    for row in rows.pages:
        sides.setdefault(row["document"], set()).add(row["side"])
    return {
        "source": str(listing.folder.absolute()),
        "settings": {**settings},
        "documents": [
            {
                "name": document.name,
                "side": " and ".join(sorted(sides[document.name])),
                "pages": len(document.pages),
                "queries": of_document[document.name],
            }
            for document in documents
        ],
        "skipped": [dataclasses.asdict(one) for one in skipped],
        "lost": [{"document": one.name, **dataclasses.asdict(lost)} for one in documents for lost in one.lost],
        "not_read": dict(listing.others),
        "unmatched_captions": {} if captions is None else {n: [*some] for n, some in captions.unmatched.items()},
        "text_source": dict(counted_sources(documents)),
        "drawn_by": dict(
            Counter(one.drawn_by or "omnitune" for one in documents if is_office(listing.paths[one.name]))
        ),
        "fallbacks": {one.name: one.fallback for one in documents if one.fallback},
        "pages": dict(Counter(row["side"] for row in rows.pages)),
        "queries": {side: dict(Counter(row["origin"] for row in table)) for side, table in asked.items()},
        "dropped": dict(rows.dropped),
        "near_duplicates": [
            [rows.pages[index]["page_id"] for index in group] for group in members(row["group"] for row in rows.pages)
        ],
        "left_out": {row["page_id"]: row["left_out_for"] for row in rows.pages if row["left_out_for"]},
    }
