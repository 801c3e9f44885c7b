"""Pages of a folder of documents as a retriever indexes them, and their files: images, recordings and clips.

A retriever may be a stranger's. Its index then names whatever its maker wrote, so a path counts only where it leads
into a folder that belongs to the retriever, or that the user named.
"""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from omnitune import runtime
from omnitune.documents.folder import list_folder, read_folder
from omnitune.documents.kinds import PAGES, Kind, segmentation_of
from omnitune.documents.read.pages import Rendering, Word, write_words
from omnitune.documents.reading import with_texts
from omnitune.documents.stored import IMAGES
from omnitune.errors import InputError
from omnitune.folders import writable_or_temporary
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.model.embedded import READERS, reader_of
from omnitune.modules.readers.text import TextReader

logger = logging.getLogger(__name__)


def pages_of_folder(
    folder: Path, store: Path | None = None, *, language: str | None = None, show_progress: bool | None = None
) -> list[dict[str, Any]]:
    """Read all documents below a folder, those that were read before from the store.

    Args:
        folder: Of PDFs, images, recordings or clips.
        store: Where page images and readings are kept; None takes the cache folder.
        language: Of pages, or of speech, that have to be recognised; None takes English.
        show_progress: Whether to show a bar; None decides by the terminal.

    Returns:
        Pages with `id` ("a.pdf#3"), `document`, `page`, `label` (as printed; of a segment `times`), `path` (of the
        image or the segment) and `text`.

    Raises:
        DatasetError: There are no documents, or none can be read.
    """
    place = writable_or_temporary(runtime.cache_folder() / "documents") if store is None else store
    listing = list_folder(folder, "auto")
    kind, usual = listing.kind, Rendering()
    rendering = replace(usual, segments=segmentation_of(kind, "auto", usual.seconds))
    documents, _ = read_folder(listing, place, rendering, show_progress=show_progress)
    missing = [name for name in READERS[kind.modality].packages if importlib.util.find_spec(name) is None]
    documents = with_texts(
        documents, place / "images", None if missing else partial(read_texts, kind=kind, language=language)
    )
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


def read_texts(
    paths: Sequence[Path], kind: Kind = PAGES, language: str | None = None, *, keep_words: bool = True
) -> list[str]:
    """Read the texts of page images, recordings or clips; what was read before is taken from the cache.

    Args:
        paths: Of one kind.
        kind: Which.
        language: Of the pages, or of the speech, as the reader names it; None takes English.
        keep_words: Write the places of the words beside each page image.
    """
    reader, texts, chunk = reader_of(kind.modality, language), list[str](), 4 * runtime.cores()
    label = "Reading scanned pages" if kind is PAGES else f"Reading {kind.name}"
    sampling = reader.sampling(kind.modality)
    with runtime.progress_bar(label=label, total=len(paths), unit=kind.words.page) as bar:
        for start in range(0, len(paths), chunk):
            some = paths[start : start + chunk]
            items = [load(path, kind.modality, DEFAULT_POLICY, sampling) for path in some]
            texts += reader.read(items)
            # So that a search can box them, as it does those of a text layer.
            if keep_words and isinstance(reader, TextReader):
                for path, words in zip(some, reader.words(items), strict=True):
                    placed = [Word(text=word, box=(x, y, right, end)) for word, x, y, right, end in words]
                    write_words(placed, path.name, path.parent)
            bar.update(len(texts) - bar.n)
    return texts


@dataclass(kw_only=True)
class PageFiles:
    """Finds the files of pages.

    Attributes:
        folder: Of the retriever, in which relative paths are looked for; None while it is in memory alone.
        roots: Folders in which files must lie; None allows any place, for paths that this process was given.
    """

    folder: Path | None = None
    roots: tuple[Path, ...] | None = None
    _told: bool = field(default=False, repr=False)

    @classmethod
    def of_opened(cls, folder: Path, *named: Path) -> "PageFiles":
        """Files of a retriever that was opened.

        Args:
            folder: Its folder.
            *named: Further folders that the user named.
        """
        # Images that `Retriever.build` read from documents lie in the cache under the hash of their bytes: who can name
        # one knows it already.
        kept = runtime.cache_folder() / "documents" / IMAGES
        return cls(folder=folder, roots=(folder, _images_of_run(folder), kept, *named))

    def of(self, entry: Mapping[str, Any], name: str = "path") -> Path | None:
        """The file that a page's entry names; in the images of its run, or of the retriever, where these were moved.

        Args:
            entry: Of the page; a relative path is one inside the retriever's folder.
            name: Of the value that holds the path.

        Returns:
            The path, whether a file is there or not; None where the entry names none, or one outside of `roots`.
        """
        given = entry.get(name)
        if not isinstance(given, str) or not given or "\0" in given:
            return None
        path = Path(given) if self.folder is None else self.folder / given  # an absolute path stays as it is
        if self.folder is not None and not (path.is_file() and self.hold(path)):  # moved, or a copy of one that stays
            for home in (_images_of_run(self.folder), self.folder / "pages" / IMAGES):
                moved = home / path.parent.name / path.name
                path = moved if moved.is_file() else path
        if self.hold(path):
            return path
        if not self._told and path.is_file():
            self._told = True
            logger.warning(
                "images of pages, such as %s, lie outside of the retriever and are not opened, because it may be "
                "somebody else's; name their folder: Retriever.open(..., files=FOLDER), omnitune serve --documents",
                path,
            )
        return None

    def hold(self, path: Path) -> bool:
        """Tell whether a path, with all links followed, leads into one of `roots`."""
        real = os.path.realpath(path)
        return self.roots is None or any(
            real.startswith(os.path.join(os.path.realpath(root), "")) for root in self.roots
        )


def _images_of_run(retriever: Path) -> Path:
    return retriever.resolve().parent / "dataset" / IMAGES


def as_page(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A page as it is indexed: with all the values a hit has, and a digest of its content."""
    if "id" not in item:
        raise InputError(f"items: expected an id for each page, got none in number {number}: {sorted(item)}")
    name = str(item["id"])
    page = {"document": name.rpartition("#")[0] or name, "text": "", **item, "id": name}
    held = json.dumps(page, sort_keys=True, default=str, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return {**page, "content": hashlib.blake2b(held, digest_size=8).hexdigest()}


def value_of(page: Mapping[str, Any], name: str) -> Any:
    """The value of a page that a stage reads.

    Raises:
        InputError: It has none.
    """
    if name not in page:
        raise InputError(f"items: expected {name!r}, which a stage reads, in every page, got {sorted(page)}")
    return page[name]
