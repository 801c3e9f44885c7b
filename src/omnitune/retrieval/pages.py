"""Pages of a folder of documents as a retriever indexes them."""

from pathlib import Path
from typing import Any

from omnitune import runtime
from omnitune.documents.folder import kind_at, read_folder
from omnitune.documents.read.pages import Rendering
from omnitune.inputs.image import load_image
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.modules.readers.text import TextReader


def pages_of_folder(folder: Path, store: Path | None = None, show_progress: bool | None = None) -> list[dict[str, Any]]:
    """Read all documents below a folder, those that were read before from the store.

    Args:
        folder: Of PDFs, images, recordings or clips.
        store: Where page images and readings are kept; None takes the cache folder.
        show_progress: Whether to show a bar; None decides by the terminal.

    Returns:
        Pages with `id` ("a.pdf#3"), `document`, `page`, `label` (as printed, or a segment's times), `path` (of the
        image or the segment) and `text`.

    Raises:
        DatasetError: There are no documents, or none can be read.
    """
    place = runtime.cache_folder() / "documents" if store is None else store
    documents, _ = read_folder(folder, place, Rendering(), show_progress=show_progress)
    made: list[dict[str, Any]] = []
    for document in documents:
        for page in document.pages:
            made.append(
                {
                    "id": f"{document.name}#{page.number}",
                    "document": document.name,
                    "page": page.number,
                    "label": page.label,
                    "path": str((place / "images" / page.image).absolute()),
                    "text": page.text,
                }
            )
    _read_scans(made, folder)
    return made


def _read_scans(pages: list[dict[str, Any]], folder: Path) -> None:
    """Recognise the text of pages without a text layer, where a recogniser is installed."""
    scans = [page for page in pages if not page["text"]]
    if not scans or kind_at(folder / pages[0]["document"]).modality != "image":
        return
    reader = TextReader()
    step = 4 * runtime.cores()
    for start in range(0, len(scans), step):
        some = scans[start : start + step]
        for page, text in zip(
            some, reader.read([load_image(page["path"], DEFAULT_POLICY) for page in some]), strict=True
        ):
            page["text"] = text
