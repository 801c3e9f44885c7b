"""Folders of documents that a dataset or a retriever was made of, noted in it and signed for this user.

A run says itself where its documents are. That of a stranger could say any folder, whose files a server would open, so
a note counts only with a signature that needs this user's key. It lies in the run: one that is moved, or whose caches
are emptied, still knows its documents.
"""

import contextlib
import hmac
import logging
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from omnitune.documents.read.text import printable
from omnitune.errors import DatasetError, ResourceError
from omnitune.folders import inside, locked
from omnitune.io import read_json_or_none, write_json, writing
from omnitune.runtime import state_folder

logger = logging.getLogger(__name__)

FILE = "sources.json"


def note_source(place: Path, source: Path) -> None:
    """Note in the folder of a dataset or a retriever that it was made here of a folder of documents, the newest first.

    Without the key, or where nothing can be written, it is left out: the user names the folder when it is served.
    """
    source = source.absolute()
    signature = _signature(source)
    if signature is None:
        return
    noted = _noted(place)
    made = {"folder": str(source), "signature": signature}
    if noted[:1] != [made]:
        with contextlib.suppress(OSError, ResourceError):
            write_json(place / FILE, [made, *(one for one in noted if one.get("folder") != str(source))])


def signed_sources(place: Path) -> list[Path]:
    """Folders of documents that were noted here by this user, whether they are still there or not, the newest first."""
    found = []
    for one in _noted(place):
        folder, given = one.get("folder"), one.get("signature")
        own = _signature(Path(folder)) if isinstance(folder, str) else None
        same = own and isinstance(given, str) and hmac.compare_digest(own.encode(), given.encode("utf-8", "replace"))
        if same and isinstance(folder, str):
            found.append(Path(folder))
    return found


def find_document(folders: Iterable[Path], name: str) -> Path | None:
    """Find the file of a document in the first of some folders that has it; links and names never lead out of them.

    Args:
        folders: Of documents.
        name: As `list_folder` names it: fit to be printed, so the file's own name may have other bytes.
    """
    for folder in folders:
        place: Path | None = folder
        for part in name.split("/"):
            place = None if place is None else _child(place, part)
        with contextlib.suppress(OSError, DatasetError):
            if place is not None and inside(folder, str(place.relative_to(folder))) and place.is_file():
                return place
    return None


def _child(folder: Path, part: str) -> Path | None:
    """The entry of a folder whose name is, or is printed as, `part`."""
    if part in ("", ".", "..") or "\0" in part:
        return None
    with contextlib.suppress(OSError, UnicodeEncodeError):
        if os.path.lexists(folder / part):
            return folder / part
        if "\\" in part:  # only a name that is not fit to be printed is written with one
            return next((folder / one for one in os.listdir(folder) if printable(one) == part), None)
    return None


def _noted(place: Path) -> list[dict[str, object]]:
    found = read_json_or_none(place / FILE)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _signature(source: Path) -> str | None:
    """Sign a path with this user's key, which is made when it is first needed; None where there can be none."""
    file = state_folder() / "key"
    try:
        key = _whole_key(file)
        if key is None:
            with locked(file.parent, task="making a key"):
                key = _whole_key(file)  # another process may have been first
                if key is None:
                    key = secrets.token_hex(32).encode()
                    with writing(file) as temporary:
                        temporary.chmod(0o600)
                        temporary.write_bytes(key)
    except (OSError, ResourceError) as error:
        logger.debug("documents are not noted: %s", error)
        return None
    return hmac.new(key, os.fsencode(source), "sha256").hexdigest()


def _whole_key(file: Path) -> bytes | None:
    """The key, or None where there is none or a part of one."""
    with contextlib.suppress(FileNotFoundError):
        key = file.read_bytes()
        return key if len(key) == 64 else None
    return None
