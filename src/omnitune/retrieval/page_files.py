"""Files of a retriever's pages: page images, recordings and clips, by the paths that the index keeps.

A retriever may be a stranger's. Its index then names whatever its maker wrote, so a path counts only where it leads
into a folder that belongs to the retriever, or that the user named.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnitune import runtime
from omnitune.documents.dataset import IMAGES

logger = logging.getLogger(__name__)


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
        """The file that a page's entry names; in the images of its run where that was moved.

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
        if self.folder is not None and not path.is_file():
            moved = _images_of_run(self.folder) / path.parent.name / path.name
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
