"""The dataset that a folder of documents becomes: page images, training pairs, held-out queries.

`prepare` walks the folder once (`folder.list_folder`), has every document read page by page in processes of its own
(`folder.read_folder`, `read.worker`), takes each page's text from its best source (`reading.with_texts`), then deals out
the documents and makes the queries (`preparation.make_rows`), and writes:

    folder/
      README.md        a card: what is in it, what was left out and why
      prepared.json    the same facts for programs, and the fingerprint that says whether it is up to date
      tables/          a `datasets.DatasetDict`: `datasets.load_from_disk(folder / "tables")`
      images/          one file a page, named by the hash of its content: an image; of a segment of a recording or clip a
                       `.wav` or `.mp4`, and a `.jpg` of the same name to look at
      documents/       one file a document that was read, so that the next run need not read it again

Tables:

| table | a row | columns |
|---|---|---|
| `pages` | a page, in the order of documents and pages | `page_id` ("R-data.pdf#12"), `document`, `number` (from 1), `label` (as printed, or a segment's times), `side` (train, validation, test), `image`, `text`, `text_source` (layer, recognised, none), `group` (near-duplicates share it), `left_out_for` (the held-out page that a left-out page nearly is, or ""), `look` (difference hash) |
| `train` | a pair | `query`, `page_id`, `image`, `origin` (title, caption, heading, sentence, model), `document` |
| `validation`, `test` | a query | `query_id`, `query`, `page_ids` (the pages that answer it), `origin`, `document` |

`image` is the path of a file inside the folder, so that a page is stored once however many queries it has, and the folder
can be moved. `load` gives datasets whose images are `datasets.Image` (`Audio`, `Video`); saving those elsewhere, or
pushing them to a hub, embeds the images.
"""  # noqa: E501 - a table row is one line

import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Audio, Dataset, DatasetDict, Features, Image, List, Value, Video, load_from_disk

from omnitune.documents.card import write_card
from omnitune.documents.duplicates import members
from omnitune.documents.folder import LAYOUT_VERSION, Document, Listing, Skipped, counted, list_folder, read_folder
from omnitune.documents.kinds import KINDS, Kind, KindName, Ways, way_of
from omnitune.documents.preparation import (
    QUERY_VERSION,
    Choices,
    Keep,
    PageWriter,
    Rows,
    captions_for,
    make_rows,
    page_groups,
)
from omnitune.documents.queries.captions import Captions
from omnitune.documents.read.pages import Rendering, Word, picture_of, read_words
from omnitune.documents.reading import PageReader, Reading, counted_sources, with_texts
from omnitune.documents.splits import SIDES, Side, leaks, raise_leaks
from omnitune.errors import DatasetError, InputError
from omnitune.io import inside, read_json_or_none, writable_folder, writing

logger = logging.getLogger(__name__)

READ_TYPES = "save them as PDF to have them read; a text about the folder, such as README, is no document"
"""Advice about files of other types."""

TABLES, IMAGES, FACTS = "tables", "images", "prepared.json"

_TEXT = Value("string")
_ASKED = {"query_id": _TEXT, "query": _TEXT, "page_ids": List(_TEXT), "origin": _TEXT, "document": _TEXT}
SCHEMA: dict[str, Features] = {
    "pages": Features(
        {
            "page_id": _TEXT,
            "document": _TEXT,
            "number": Value("int32"),
            "label": _TEXT,
            "side": _TEXT,
            "image": _TEXT,
            "text": _TEXT,
            "text_source": _TEXT,
            "group": Value("int32"),
            "left_out_for": _TEXT,
            "look": _TEXT,
        }
    ),
    "train": Features({"query": _TEXT, "page_id": _TEXT, "image": _TEXT, "origin": _TEXT, "document": _TEXT}),
    "validation": Features(_ASKED),
    "test": Features(_ASKED),
}

Item = dict[str, Any]
"""A page as a model takes it: `{"path": absolute path of its image, recording or clip, "bytes": None}`."""

FEATURES: dict[str, Any] = {"image": Image(), "audio": Audio(decode=False), "video": Video(decode=False)}
"""Type of a column of pages by modality. The model's own reader decodes sound and clips, at its rate and frames."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """Held-out queries of one side.

    Attributes:
        queries: Text by query id.
        relevant: Ids of the pages that answer a query, by query id. They may stand in any document.
    """

    queries: dict[str, str]
    relevant: dict[str, set[str]]


@dataclasses.dataclass(frozen=True)
class DocumentDataset:
    """A prepared dataset, opened; page images stay files until something looks at them.

    Attributes:
        folder: Where it is.
        tables: As on disk (see the module's docstring).
        facts: What was made of what: `source`, `settings`, `documents`, `skipped`, `lost` (pages that could not be
            read), `not_read` (files of other types by suffix), `text_source` (pages by it), `pages`, `queries`,
            `dropped`, `near_duplicates`, `left_out`, `seconds`.
    """

    folder: Path
    tables: DatasetDict
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the folder of documents."""
        return Path(self.facts["source"]).name

    @property
    def kind(self) -> Kind:
        """Kind of the documents."""
        return KINDS[self.facts.get("kind", "pages")]

    @cached_property
    def train(self) -> Dataset:
        """Training pairs: `query` (text) and `page` (`datasets.Image`, `Audio` or `Video`, a path)."""
        table = self.tables["train"]
        paths = [self._path(image) for image in table["image"]]
        return self.with_pages({"query": table["query"][:], "page": paths}, ["page"])

    def with_pages(self, columns: Mapping[str, Sequence[Any]], pages: Sequence[str]) -> Dataset:
        """A dataset of some columns, of which those named `pages` hold paths of pages."""
        made = Dataset.from_dict(dict(columns))
        for name in pages:
            made = made.cast_column(name, FEATURES[self.kind.modality])
        return made

    @cached_property
    def page_ids(self) -> list[str]:
        """Ids of all pages; the order of `pages` and `page_texts`."""
        return list(self.tables["pages"]["page_id"])

    @cached_property
    def pages(self) -> list[Item]:
        """All page images, or segments."""
        return [{"path": self._path(image), "bytes": None} for image in self.tables["pages"]["image"]]

    @cached_property
    def pictures(self) -> list[Item]:
        """Pictures of all pages for people to look at: the images, or a waveform or key frames of every segment."""
        return [{"path": picture_of(page["path"]), "bytes": None} for page in self.pages]

    @cached_property
    def page_texts(self) -> list[str]:
        """Text layers of all pages, "" where there is none."""
        return list(self.tables["pages"]["text"])

    def words_of(self, page_id: str) -> tuple[Word, ...]:
        """Words of a page's text layer with their places on its image; empty where they are not known."""
        image = self.tables["pages"]["image"][self.page_ids.index(page_id)]
        return read_words(inside(self.folder, image).name, inside(self.folder, image).parent)

    @cached_property
    def corpus(self) -> dict[str, Item]:
        """All page images by page id."""
        return dict(zip(self.page_ids, self.pages, strict=True))

    @cached_property
    def texts(self) -> dict[str, str]:
        """Text layers by page id."""
        return dict(zip(self.page_ids, self.page_texts, strict=True))

    @property
    def queries(self) -> dict[str, str]:
        """Test queries by id."""
        return self.test.queries

    @property
    def relevant(self) -> dict[str, set[str]]:
        """Pages that answer the test queries; all of them, also in documents that are not held out."""
        return self.test.relevant

    @property
    def test_queries(self) -> list[str]:
        """Texts of the test queries."""
        return list(self.test.queries.values())

    @cached_property
    def test(self) -> Questions:
        """Test queries and the pages that answer them."""
        return self._asked("test")

    @cached_property
    def validation(self) -> Questions:
        """Validation queries and the pages that answer them; empty where none were held out."""
        return self._asked("validation")

    def pages_of(self, side: Side) -> list[str]:
        """Ids of the pages of the documents on a side, near-duplicates included."""
        table = self.tables["pages"]
        return [page for page, where in zip(table["page_id"], table["side"], strict=True) if where == side]

    def summary(self) -> str:
        """Say in one line how much is in it, and what was left out."""
        facts = self.facts
        sides = ", ".join(f"{facts['pages'][side]} {side}" for side in reversed(SIDES) if facts["pages"].get(side))
        asked = sum(facts["queries"]["test"].values())
        words = self.kind.words
        left_out = f"; {len(facts['skipped'])} {words.document}s skipped" if facts["skipped"] else ""
        if facts.get("lost"):
            left_out += f"; {len(facts['lost'])} {words.page}s that cannot be read"
        if facts.get("not_read"):
            left_out += f"; not read: {counted(facts['not_read'])} ({READ_TYPES})"
        return (
            f"{len(facts['documents'])} {words.document}s, {len(self.page_ids):,} {words.page}s ({sides}); "
            f"{self.tables['train'].num_rows:,} training pairs, {asked:,} test queries{left_out}"
        )

    def to_datasets(self) -> DatasetDict:
        """The tables with `image` as `datasets.Image`, for `push_to_hub` or `save_to_disk`, which embed the images."""
        made = {}
        for name, table in self.tables.items():
            if "image" in table.column_names:
                paths = [self._path(image) for image in table["image"]]
                bare = Dataset.from_dict({**table.to_dict(), "image": paths}, features=table.features)
                made[name] = bare.cast_column("image", FEATURES[self.kind.modality])
            else:
                made[name] = table
        return DatasetDict(made)

    def _path(self, image: str) -> str:
        return str(inside(self.folder, image))

    def _asked(self, side: Side) -> Questions:
        if side not in self.tables:
            return Questions(queries={}, relevant={})
        table = self.tables[side]
        ids = list(table["query_id"])
        return Questions(
            queries=dict(zip(ids, table["query"], strict=True)),
            relevant={query: set(pages) for query, pages in zip(ids, table["page_ids"], strict=True)},
        )


def load(folder: str | Path) -> DocumentDataset:
    """Open a dataset that `prepare` made.

    Raises:
        DatasetError: There is none in `folder`, or a page of it names a file outside.
    """
    folder = Path(folder).absolute()
    if not (folder / FACTS).is_file() or not (folder / TABLES).is_dir():
        raise DatasetError(
            f"folder: expected a dataset made by `omnitune prepare`, got {str(folder)!r}, "
            f"which has no {FACTS} or no {TABLES}/"
        )
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    tables = load_from_disk(str(folder / TABLES))
    for image in {image for table in tables.values() if "image" in table.column_names for image in table["image"]}:
        inside(folder, image)  # the dataset may be someone else's: a page is a file of it, or saving it would leak one
    return DocumentDataset(folder=folder, tables=tables, facts=facts)


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    kind: KindName | Literal["auto"] = "auto",
    width: int = 900,
    max_pixels: int = 4_000_000,
    segments: Ways = "auto",
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
        InputError: This kind of document is not cut so; or `out` lies inside `folder`; or all pages shall be recognised
            and there is no `reader`.
        LeakageError: A held-out page, or its near-duplicate, came into training.
        ResourceError: The disk is full, and what was made is kept; or `out` cannot be written to.
    """
    started = time.perf_counter()
    folder = Path(folder)
    check_outside(folder, Path(out))
    out = writable_folder(Path(out).absolute())
    listing = list_folder(folder, kind)
    what = listing.kind
    rendering = Rendering(
        width=width, max_pixels=max_pixels, segments=way_of(what, segments, seconds), seconds=float(seconds)
    )
    captions = captions_for(listing)
    choices = Choices(
        split=split,
        test=test if isinstance(test, float | int) else tuple(test),
        validation=validation if isinstance(validation, float | int) else tuple(validation),
        seed=seed,
        similarity=similarity,
        sentences=sentences,
        round_trip=round_trip,
    )
    documents, skipped = read_folder(listing, out, rendering, workers=workers, show_progress=show_progress)
    if captions is not None:
        documents = [replace(document, captions=tuple(captions.of.get(document.name, ()))) for document in documents]
        skipped += [Skipped(name=name, reason=reason) for name, reason in captions.broken.items()]
        for name, strangers in captions.unmatched.items():
            logger.warning("%s: %d row(s) name no file of the folder, such as %r", name, len(strangers), strangers[0])
    settings = {**{name: getattr(rendering, name) for name in what.settings}, **dataclasses.asdict(choices)}
    if what.own_text:
        settings["reading"] = reading
    mark = _fingerprint(listing, documents, skipped, settings, [reader, keep, *([writer] if writer else [])])
    if _up_to_date(out, mark):
        return load(out)
    documents = with_texts(documents, out / IMAGES, reader, reading)
    write = None if writer is None else lambda pages: writer([out / IMAGES / page.image for page in pages])
    rows = make_rows(documents, choices, keep, write, what)
    facts = _facts(listing, captions, settings, documents, skipped, rows)
    facts |= {"kind": what.name, "fingerprint": mark, "seconds": round(time.perf_counter() - started, 1)}
    return _save(out, rows, facts)


def check_outside(folder: Path, out: Path) -> None:
    """Refuse a destination inside the folder of documents.

    Raises:
        InputError: `out` is `folder` or lies inside it.
    """
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise InputError(
            f"out: expected a folder outside the documents, got {str(out)!r} inside {str(folder)!r}; "
            "its page images would be taken for documents in the next run"
        )


def check_leaks(dataset: DocumentDataset) -> None:
    """Compare the training pages with the held-out ones anew, from their texts and images.

    Raises:
        LeakageError: A page in training is held out, or is a near-duplicate of one that is; lists the pages.
    """
    table = dataset.tables["pages"]
    similarity = dataset.facts["settings"]["similarity"]
    found = page_groups(dataset.page_texts, list(table["look"]), dataset.kind, similarity)
    held_out = dataset.pages_of("test") + dataset.pages_of("validation")
    group_of: dict[str, int] = dict(zip(dataset.page_ids, found, strict=True))
    raise_leaks(leaks(group_of, list(dataset.tables["train"]["page_id"]), held_out))


def _save(out: Path, rows: Rows, facts: dict[str, Any]) -> DocumentDataset:
    """Write the tables beside those that are there, check them, and only then let them take their place."""
    tables = {"pages": rows.pages, "train": rows.train, **rows.asked}
    made = DatasetDict({name: Dataset.from_list(some, features=SCHEMA[name]) for name, some in tables.items()})
    fresh = DocumentDataset(folder=out, tables=made, facts=facts)
    check_leaks(fresh)
    partial = out / f".{TABLES}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with _without_bars():
        made.save_to_disk(str(partial))
    (out / FACTS).unlink(missing_ok=True)
    shutil.rmtree(out / TABLES, ignore_errors=True)
    partial.rename(out / TABLES)
    write_card(out / "README.md", facts)
    with writing(out / FACTS) as temporary:
        temporary.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
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


def _up_to_date(out: Path, mark: str) -> bool:
    if not (out / FACTS).is_file() or not (out / TABLES).is_dir():
        return False
    facts = read_json_or_none(out / FACTS)
    return isinstance(facts, dict) and facts.get("fingerprint") == mark


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
        "pages": dict(Counter(row["side"] for row in rows.pages)),
        "queries": {side: dict(Counter(row["origin"] for row in table)) for side, table in asked.items()},
        "dropped": dict(rows.dropped),
        "near_duplicates": [
            [rows.pages[index]["page_id"] for index in group] for group in members(row["group"] for row in rows.pages)
        ],
        "left_out": {row["page_id"]: row["left_out_for"] for row in rows.pages if row["left_out_for"]},
    }
