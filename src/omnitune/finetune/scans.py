"""The held-out pages as scans: their texts as recognised in the images, beside those of a sound text layer."""

import importlib.util
from pathlib import Path

from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.kinds import PAGES
from omnitune.documents.read.text import clean
from omnitune.errors import MissingLanguageError
from omnitune.finetune.steps import Log
from omnitune.model.embedded import READERS
from omnitune.retrieval.pages import read_texts


def scans_of(dataset: DocumentDataset) -> list[int]:
    """Rows of the held-out pages, where they have text layers and something can recognise them; else none."""
    packages = READERS["image"].packages
    if dataset.kind is not PAGES or any(importlib.util.find_spec(package) is None for package in packages):
        return []
    table = dataset.tables["pages"]
    sources = zip(table["side"], table["text_source"], strict=True)
    return [row for row, (side, source) in enumerate(sources) if side == "test" and source == "layer"]


def as_scans(dataset: DocumentDataset, language: str | None, log: Log) -> list[str] | None:
    """Texts of all pages, those of held-out text layers recognised anew; None where that cannot be measured."""
    rows = scans_of(dataset)
    if not rows:
        return None
    log(f"Recognising {len(rows):,} held-out {dataset.kind.words.page}s, to measure them as scans")
    paths = [Path(dataset.pages[row]["path"]) for row in rows]
    try:
        # The words of their layers, which are exact, stay as they are.
        read = read_texts(paths, dataset.kind, language, keep_words=False)
    except MissingLanguageError:  # the row is missing, the run is not
        log(f"Scans are not measured: Tesseract has no model of {language!r}")
        return None
    texts = list(dataset.page_texts)
    for row, text in zip(rows, read, strict=True):
        texts[row] = clean(text)
    return texts
