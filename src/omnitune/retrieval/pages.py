"""Pages of a folder of documents as a retriever indexes them."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omnitune import runtime
from omnitune.documents.folder import list_folder, read_folder
from omnitune.documents.kinds import PAGES, Kind, segmentation_of
from omnitune.documents.read.pages import Rendering, Word, write_words
from omnitune.documents.reading import with_texts
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.model.embedded import READERS, reader_of
from omnitune.modules.readers.text import TextReader

logger = logging.getLogger(__name__)


def pages_of_folder(folder: Path, store: Path | None = None, show_progress: bool | None = None) -> list[dict[str, Any]]:
    """Read all documents below a folder, those that were read before from the store.

    Args:
        folder: Of PDFs, images, recordings or clips.
        store: Where page images and readings are kept; None takes the cache folder.
        show_progress: Whether to show a bar; None decides by the terminal.

    Returns:
        Pages with `id` ("a.pdf#3"), `document`, `page`, `label` (as printed; of a segment `times`), `path` (of the
        image or the segment) and `text`.

    Raises:
        DatasetError: There are no documents, or none can be read.
    """
    place = runtime.cache_folder() / "documents" if store is None else store
    listing = list_folder(folder, "auto")
    kind, usual = listing.kind, Rendering()
    rendering = replace(usual, segments=segmentation_of(kind, "auto", usual.seconds))
    documents, _ = read_folder(listing, place, rendering, show_progress=show_progress)
    missing = [name for name in READERS[kind.modality].packages if importlib.util.find_spec(name) is None]
    documents = with_texts(documents, place / "images", None if missing else partial(read_texts, kind=kind))
    mute = sum(not page.text for document in documents for page in document.pages)
    if mute and missing:
        logger.warning(
            "%d %ss have no text: %s, which would read them, is not installed", mute, kind.words.page, missing[0]
        )
    made: list[dict[str, Any]] = []
    for document in documents:
        for page in document.pages:
            made.append(
                {
                    "id": f"{document.name}#{page.number}",
                    "document": document.name,
                    "page": page.number,
                    "times" if kind.segmentations else "label": page.label,
                    "path": str((place / "images" / page.image).absolute()),
                    "text": page.text,
                }
            )
    return made


def read_texts(paths: Sequence[Path], kind: Kind = PAGES, language: str | None = None) -> list[str]:
    """Read the texts of page images, recordings or clips; what was read before is taken from the cache.

    Args:
        paths: Of one kind.
        kind: Which.
        language: Of the pages, or of the speech, as the reader names it; None takes English.
    """
    reader, texts, chunk = reader_of(kind.modality, language), list[str](), 4 * runtime.cores()
    label = "Reading scanned pages" if kind is PAGES else f"Reading {kind.name}"
    sampling = reader.sampling(kind.modality)
    with runtime.progress_bar(label=label, total=len(paths), unit=kind.words.page) as bar:
        for start in range(0, len(paths), chunk):
            some = paths[start : start + chunk]
            items = [load(path, kind.modality, DEFAULT_POLICY, sampling) for path in some]
            texts += reader.read(items)
            if isinstance(reader, TextReader):  # so that a search can box them, as it does those of a text layer
                for path, words in zip(some, reader.words(items), strict=True):
                    placed = [Word(text=word, box=(x, y, right, end)) for word, x, y, right, end in words]
                    write_words(placed, path.name, path.parent)
            bar.update(len(texts) - bar.n)
    return texts
