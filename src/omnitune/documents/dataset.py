"""The dataset that a folder of documents becomes: page images, training pairs, held-out queries.

`preparation.prepare` writes:

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
| `pages` | a page, in the order of documents and pages | `page_id` ("R-data.pdf#12"), `document`, `number` (from 1), `label` (as printed, or a segment's times), `side` (train, validation, test), `image`, `text`, `text_source` (layer, recognised, none), `group` (near-duplicates share it), `left_out_for` (the held-out page that a left-out page nearly is, or ""), `fingerprint` (difference hash of the image, of a segment its frames' and its sound's) |
| `train` | a pair | `query`, `page_id`, `image`, `origin` (title, caption, heading, sentence, model), `document` |
| `validation`, `test` | a query | `query_id`, `query`, `page_ids` (the pages that answer it), `origin`, `document` |

`image` is the path of a file inside the folder, so that a page is stored once however many queries it has, and the folder
can be moved. `load` gives datasets whose images are `datasets.Image` (`Audio`, `Video`); saving those elsewhere, or
pushing them to a hub, embeds the images.
"""  # noqa: E501 - a table row is one line

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, DatasetDict, Features, Image, List, Value, Video, load_from_disk

from omnitune.documents.folder import counted
from omnitune.documents.kinds import KINDS, Kind
from omnitune.documents.read.pages import Word, picture_of, read_words
from omnitune.documents.rows import page_groups
from omnitune.documents.splits import SIDES, Side, leaks, raise_leaks, too_few
from omnitune.errors import DatasetError
from omnitune.folders import inside
from omnitune.io import read_json_or_none
from omnitune.places import PREPARED, TABLES, dataset_folder

READ_TYPES = "save them as PDF to have them read; a text about the folder, such as README, is no document"
"""Advice about files of other types."""


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
            "fingerprint": _TEXT,
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
            read), `not_read` (files of other types by suffix), `text_source` (pages by it), `drawn_by` (office
            files by what drew their pages), `fallbacks` (why LibreOffice drew some not), `pages`, `queries`,
            `dropped`, `near_duplicates`, `left_out`, `seconds`.
        as_text: Whether a model is given the texts of pages instead of their images.

    Example:
        >>> dataset = documents.prepare("manuals", "run/dataset")
        >>> dataset.train["query"][0], dataset.page_ids[0]
        ('Mooring heavy barges', 'garden.pdf#1')
        >>> evaluator = evaluation.InformationRetrievalEvaluator(dataset.queries, dataset.texts, dataset.relevant)
        >>> round(evaluator(model)[evaluator.primary_metric], 2)
        1.0
    """

    folder: Path
    tables: DatasetDict
    facts: Mapping[str, Any]
    as_text: bool = False

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
        """Training pairs: `query` (text) and `page` (`datasets.Image`, `Audio` or `Video`, a path; or a text)."""
        table = self.tables["train"]
        return self.with_pages({"query": table["query"][:], "page": table["page_id"][:]}, ["page"])

    def with_pages(self, columns: Mapping[str, Sequence[Any]], pages: Sequence[str]) -> Dataset:
        """A dataset of some columns; in those named `pages`, ids of pages become what a model is given."""
        given = self.texts if self.as_text else {page: item["path"] for page, item in self.corpus.items()}
        made = Dataset.from_dict({n: [given[one] for one in c] if n in pages else c for n, c in columns.items()})
        for name in () if self.as_text else pages:
            made = made.cast_column(name, FEATURES[self.kind.modality])
        return made

    @property
    def items(self) -> Sequence[Any]:
        """All pages as a model is given them."""
        return self.page_texts if self.as_text else self.pages

    @property
    def fingerprint(self) -> str:
        """Hash of documents and settings, and of what a model is given."""
        return f"{self.facts['fingerprint']}{' as text' if self.as_text else ''}"

    @property
    def training_key(self) -> str:
        """Hash of all that decides the training pairs: the fingerprint, and votes where some were added."""
        return str(self.facts.get("trained_on", self.fingerprint))

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

    @property
    def drawing(self) -> str:
        """Say what drew the pages of how many office files: "office files drawn by LibreOffice 7.4.7.2: 12"; or ""."""
        by = sorted(self.facts.get("drawn_by", {}).items())
        return ", ".join(f"office files drawn by {name}: {count:,}" for name, count in by)

    def summary(self) -> str:
        """Say in one line how much is in it, and what was left out."""
        facts = self.facts
        sides = ", ".join(f"{facts['pages'][side]} {side}" for side in reversed(SIDES) if facts["pages"].get(side))
        asked = sum(facts["queries"]["test"].values())
        words = self.kind.words
        skipped = len(facts["skipped"])
        left_out = f"; {self.drawing}" if self.drawing else ""
        left_out += f"; {skipped} {words.document}{'s' * (skipped != 1)} skipped" if skipped else ""
        if facts.get("lost"):
            left_out += f"; {len(facts['lost'])} {words.page}s that cannot be read"
        if facts.get("not_read"):
            left_out += f"; not read: {counted(facts['not_read'])} ({READ_TYPES})"
        return (
            f"{len(facts['documents'])} {words.document}s, {len(self.page_ids):,} {words.page}s ({sides}); "
            f"{self.tables['train'].num_rows:,} training pairs, {asked:,} test queries{left_out}"
        )

    def doubts(self) -> list[str]:
        """Say why the test tells less than it seems to and what to do, a sentence each; empty where it does not."""
        facts, words, found = self.facts, self.kind.words, list[str]()
        pages, asked = facts["pages"].get("test", 0), sum(facts["queries"]["test"].values())
        if too_few(pages, asked):
            remedy = f"hold out more {words.document}s"
            if facts["settings"]["split"] == "documents" and isinstance(facts["settings"]["test"], float | int):
                remedy = (
                    f"half of the {words.page}s stay for training, so add {words.document}s, name those to hold out "
                    "(prepare: {test: [NAME, ...]} in a recipe), or bring questions (--questions FILE)"
                )
            told = f"The test has {asked} queries about {pages} {words.page}s and tells large differences only"
            found.append(f"{told}: {remedy}")
        if quoted := facts["queries"]["test"].get("sentence", 0):
            found.append(
                f"{quoted} of the {asked} test queries are sentences of what is said, whose words speak for lexical "
                "search: chapters or captions beside the files, or questions (--questions FILE), tell more"
            )
        return found

    def to_datasets(self) -> DatasetDict:
        """The tables with `image` as `datasets.Image`, for `push_to_hub` or `save_to_disk`, which embed the images.

        Example:
            >>> tables = documents.prepare("manuals", "run/dataset").to_datasets()
            >>> tables.num_rows, tables["pages"][0]["image"].width
            ({'pages': 8, 'train': 12, 'test': 4}, 900)
        """
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
        DatasetError: There is none in `folder`, it is damaged or of an earlier version, or a page of it names a file
            outside.

    Example:
        >>> made = documents.prepare("manuals", "run/dataset")
        >>> load("run/dataset").summary()
        '4 documents, 8 pages (4 train, 4 test); 12 training pairs, 4 test queries'
    """
    folder = dataset_folder(folder)
    facts = read_json_or_none(folder / PREPARED)
    try:
        tables = load_from_disk(str(folder / TABLES))
        columns = {*tables["pages"].column_names} if "pages" in tables else set()
    except (OSError, ValueError, KeyError, TypeError):  # cut JSON, and pyarrow's errors, are ValueErrors
        columns = set()
    if not isinstance(facts, dict) or not {*SCHEMA["pages"]} <= columns:
        raise DatasetError(
            f"folder: expected a whole dataset of this version, got {str(folder)!r}, which is damaged or was made by "
            "an earlier one; run the same `omnitune prepare` again, which keeps what can be kept"
        )
    for image in {image for table in tables.values() if "image" in table.column_names for image in table["image"]}:
        inside(folder, image)  # the dataset may be someone else's: a page is a file of it, or saving it would leak one
    return DocumentDataset(folder=folder, tables=tables, facts=facts)


def check_leaks(dataset: DocumentDataset) -> None:
    """Compare the training pages with the held-out ones anew, from their texts and images.

    Raises:
        LeakageError: A page in training is held out, or is a near-duplicate of one that is; lists the pages.
    """
    table = dataset.tables["pages"]
    similarity = dataset.facts["settings"]["similarity"]
    found = page_groups(dataset.page_texts, list(table["fingerprint"]), dataset.kind, similarity)
    held_out = dataset.pages_of("test") + dataset.pages_of("validation")
    group_of: dict[str, int] = dict(zip(dataset.page_ids, found, strict=True))
    raise_leaks(leaks(group_of, list(dataset.tables["train"]["page_id"]), held_out))
