"""A folder of documents, recordings or clips: which files they are, and their pages or segments, made once.

Every document that is done leaves one file, `documents/<key>.json`, whose key is the SHA-256 of the document's bytes
and of the settings of the rendering. A run that was killed goes on with the documents that have none; a file that was
changed has another key; a document that cannot be read is named with the reason and costs nothing but itself, and so is
a page.
"""

import dataclasses
import hashlib
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from omnitune.documents.kinds import Kind, KindName, kind_of
from omnitune.documents.queries.captions import SIDECARS
from omnitune.documents.read import libreoffice
from omnitune.documents.read.markup import ALONE, OFFICE
from omnitune.documents.read.pages import Description, Rendering
from omnitune.documents.read.text import printable
from omnitune.documents.read.worker import Job, PagesRead, Workers
from omnitune.documents.stored import LAYOUT_VERSION, Document, save_document, stored_document
from omnitune.errors import DatasetError, DocumentError
from omnitune.folders import scratch
from omnitune.inputs.endings import AMBIGUOUS, ENDINGS
from omnitune.io import content_hash
from omnitune.places import no_documents_folder
from omnitune.runtime import cores, progress_bar, require

logger = logging.getLogger(__name__)

_IMAGES, _TEXTS = "omnitune.documents.read.images", "omnitune.documents.read.office"
_LIBREOFFICE = "omnitune.documents.read.libreoffice"
READERS = {
    ".pdf": "omnitune.documents.read.pdf",
    **dict.fromkeys(
        (*OFFICE, *ALONE, ".html", ".htm", ".md", ".markdown", ".txt", ".eml"),
        _TEXTS,
    ),
    **{
        suffix: f"omnitune.documents.read.{'images' if kind == 'image' else kind}"
        for kind, row in ENDINGS.items()
        for suffix in (*row.common, *row.rarer)
        if suffix not in AMBIGUOUS  # a folder with TypeScript in it holds no clips
    },
}
"""Suffix of a file, and the module (see `pages.Reader`) that reads its kind. A new kind of document is a row here."""

ABOUT_THE_FOLDER = re.compile(r"(?:readme|licen[cs]es?|copying|notice|changelog|authors|contributing)\b", re.IGNORECASE)
"""Names of texts, and of folders of them, that speak of the files beside them and are no documents."""

PAGES_PER_JOB = 16
MOST_SHOWN = 5
"""Lost pages of one document that a warning names."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A document that could not be read, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of a folder, walked once.

    Attributes:
        folder: The folder.
        kind: What its documents are.
        paths: Documents by name, ordered by it; a name is the path inside the folder, fit to be printed.
        others: Files that are not read, counted by suffix ("" without one).
    """

    folder: Path
    kind: Kind
    paths: Mapping[str, Path]
    others: Mapping[str, int]


@dataclasses.dataclass(slots=True, kw_only=True)
class _Converted:
    """Office files that LibreOffice has converted, by name, and why it has not converted others."""

    version: str
    pdfs: dict[str, Path] = dataclasses.field(default_factory=dict)
    described: dict[str, Description] = dataclasses.field(default_factory=dict)
    fallbacks: dict[str, str] = dataclasses.field(default_factory=dict)


def has_documents(folder: Path) -> bool:
    """Tell whether a folder holds a file that is read, without telling of which kind it is."""
    return folder.is_dir() and any(path.suffix.lower() in READERS for path in _files(folder))


def list_folder(folder: Path, kind: KindName | Literal["auto"] = "auto") -> Listing:
    """Walk a folder: its documents by their suffix, and how many other files are there; hidden ones are left out.

    Args:
        folder: With its sub-folders. A dataset that `prepare` made inside it is left out.
        kind: Which files count; `"auto"` takes all, which must be of one kind.

    Raises:
        DatasetError: The folder is not there, has no documents in it, or has several kinds.
    """
    if not folder.is_dir():
        raise no_documents_folder(folder)
    found: dict[str, list[Path]] = defaultdict(list)
    others: Counter[str] = Counter()
    texts: list[Path] = []
    for path in sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix()):
        reader = READERS.get(path.suffix.lower())
        about = any(ABOUT_THE_FOLDER.match(part) for part in path.relative_to(folder).parts)
        if reader is None or (reader == _TEXTS and about):
            others[printable(path.suffix.lower())] += 1
        elif reader == _TEXTS:
            texts.append(path)
        else:
            found[kind_at(path).name].append(path)
    if kind != "auto":
        found = {kind: found[kind]} if found[kind] else {}
    if set(found) <= {"pages"} and kind in ("auto", "pages") and texts:
        found["pages"] = sorted([*found.get("pages", ()), *texts], key=lambda path: path.relative_to(folder).as_posix())
    else:  # beside recordings or clips, texts are captions and notes about them
        others.update(path.suffix.lower() for path in texts)
    if not found:
        files = "; ".join(
            dict.fromkeys(one.files for one in map(kind_of, READERS.values()) if kind in ("auto", one.name))
        )
        there = f" but {sum(others.values())} other files ({counted(others)})" if others else ""
        raise DatasetError(
            f"folder: expected documents ({files}) in {str(folder)!r} or below it, found none{there}; put some "
            "there, or name another folder"
        )
    if len(found) > 1:
        listed = ", ".join(
            f"{name} ({len(paths)} files, such as {printable(paths[0].relative_to(folder).as_posix())})"
            for name, paths in found.items()
        )
        first = next(iter(found))
        raise DatasetError(
            f"folder: expected pages, recordings or clips, one kind, in {str(folder)!r}, got {listed}; give each a "
            f"folder of its own, or choose with kind={first!r} (in a recipe, prepare: {{kind: {first}}})"
        )
    (paths,) = found.values()
    named: dict[str, Path] = {}
    for path in paths:
        name = printable(path.relative_to(folder).as_posix())
        while name in named:  # one name may be spelled as the escaped form of another one
            name += "~"
        named[name] = path
    what = kind_at(paths[0])
    if what.captioned:  # these hold the captions
        others = Counter({suffix: count for suffix, count in others.items() if suffix not in SIDECARS})
    return Listing(folder=folder, kind=what, paths=named, others=dict(others))


def find_documents(folder: Path) -> list[Path]:
    """List the documents of a folder, ordered by name (see `list_folder`)."""
    return list(list_folder(folder, "auto").paths.values())


def counted(others: Mapping[str, int]) -> str:
    """Say how many files there are of each suffix: "12 .docx, 3 .txt, 1 without a suffix"."""
    most = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in most)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden and belong to no prepared dataset."""
    for at, folders, names in os.walk(folder):
        if "prepared.json" in names and "tables" in folders and Path(at) != folder:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        places = (Path(at, name) for name in names if not name.startswith("."))
        yield from (place for place in places if place.is_file())


def kind_at(path: Path) -> Kind:
    """Decide by its suffix what kind a file is."""
    return kind_of(_reader(path))


def is_office(path: Path) -> bool:
    """Tell by its suffix whether a document is an office file, which LibreOffice can draw."""
    return path.suffix.lower() in (*OFFICE, *ALONE)


def is_drawn(path: Path) -> bool:
    """Tell whether a document has to be drawn on pages first: it is no picture, recording or clip already."""
    return kind_at(path).own_text and _reader(path) != _IMAGES


def office_of(listing: Listing, office: Literal["auto", "drawn"]) -> libreoffice.LibreOffice | None:
    """Find the LibreOffice that draws a folder's office files; None where there are none, or nothing draws them.

    One that is there and does not start is named in a warning.
    """
    if office == "drawn" or not any(map(is_office, listing.paths.values())):
        return None
    try:
        return libreoffice.installed()
    except DocumentError as error:
        logger.warning("office files are drawn by omnitune, because LibreOffice does not start: %s", error)
        return None


def key_of(path: Path, rendering: Rendering, office: str = "") -> str:
    """Hash a document's content, its kind, and everything that decides how it is kept.

    Args:
        path: The document.
        rendering: Settings of its kind.
        office: Version of the LibreOffice that draws office files; "" where none does.
    """
    settings = [getattr(rendering, name) for name in kind_at(path).settings]
    if office and is_office(path):
        settings.append(office)
    parts = [LAYOUT_VERSION, _reader(path), settings, content_hash(path)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_folder(
    folder: Path | Listing,
    store: Path,
    rendering: Rendering,
    *,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> tuple[list[Document], list[Skipped]]:
    """Read every document of a folder, or take it from what is stored.

    Args:
        folder: Where the documents are, with its sub-folders; or those of one kind, as `list_folder` found them.
        store: Where `documents/` and `images/` are kept.
        rendering: How pages become images.
        workers: Processes that read; None takes one a core.
        show_progress: Whether to show a bar; None decides by the terminal.

    Returns:
        Documents in the order of their names, and those that were skipped.

    Raises:
        DatasetError: No document could be read; lists the reasons.
        ResourceError: The disk is full; documents that are done stay done.
        MissingExtraError: The package that reads this kind is not installed.
    """
    listing = folder if isinstance(folder, Listing) else list_folder(folder, "auto")
    what = listing.kind
    if what.extra is not None:
        require(what.extra[1], extra=what.extra[0])
    office = office_of(listing, rendering.office)
    keys: dict[str, str] = {}
    failed: dict[str, str] = {}
    done: dict[str, Document] = {}
    for name, path in listing.paths.items():
        try:
            keys[name] = key_of(path, rendering, office.version if office else "")
        except OSError as error:
            failed[name] = f"the file cannot be opened ({error.strerror})"
            continue
        stored = stored_document(store, keys[name], name)
        if stored is not None:
            done[name] = stored
    todo = {name: path for name, path in listing.paths.items() if name in keys and name not in done}
    if todo:
        with (
            scratch("omnitune-office-") as place,
            Workers[tuple[str, int]](workers or cores()) as pool,
        ):
            converted = _converted(todo, office, rendering, place, pool, show_progress)
            made, unread = _read(todo, converted, keys, store, rendering, pool, show_progress)
        done |= made
        failed |= unread
    skipped = [Skipped(name=name, reason=failed[name]) for name in listing.paths if name in failed]
    for one in skipped:
        logger.warning("skipped %s: %s", one.name, one.reason)
    documents = [done[name] for name in listing.paths if name in done]
    for document in documents:
        if document.fallback:
            logger.warning("%s: drawn by omnitune as text, because %s", document.name, document.fallback)
        if document.lost:
            more = len(document.lost) - MOST_SHOWN
            reasons = "; ".join(one.reason for one in document.lost[:MOST_SHOWN])
            logger.warning("%s: left out %s%s", document.name, reasons, f"; and {more} more" if more > 0 else "")
    if not documents:
        reasons = "\n".join(f"  {one.name}: {one.reason}" for one in skipped)
        raise DatasetError(
            f"folder: none of the {len(skipped)} {what.words.document}s in {str(listing.folder)!r} can be read:\n"
            f"{reasons}"
        )
    return documents, skipped


def _converted(
    todo: Mapping[str, Path],
    office: libreoffice.LibreOffice | None,
    rendering: Rendering,
    scratch: Path,
    pool: Workers[tuple[str, int]],
    show_progress: bool | None,
) -> _Converted:
    """Have LibreOffice convert the office files among some documents to PDFs in `scratch`."""
    found = _Converted(version=office.version if office else "")
    jobs: list[tuple[tuple[str, int], Job]] = []
    for name, path in todo.items():
        if office is not None and is_office(path):
            found.pdfs[name] = scratch / f"{len(jobs)}.pdf"
            conversion = (office.program, str(found.pdfs[name]))
            patience = libreoffice.SECONDS + libreoffice.SECONDS_PER_MEGABYTE * path.stat().st_size / 2**20
            asked = dataclasses.replace(rendering, conversion=conversion)
            jobs.append(((name, 0), Job(reader=_LIBREOFFICE, path=str(path), rendering=asked, patience=patience)))
    if not jobs:
        return found
    with progress_bar(label="Office files", total=len(jobs), show=show_progress, unit="document") as bar:
        for (name, _), result in pool.run(jobs):
            bar.update()
            if isinstance(result, Description):
                found.described[name] = result
            else:
                del found.pdfs[name]
                found.fallbacks[name] = f"LibreOffice failed: {_bare(result, todo[name])}"
    return found


def _read(
    todo: Mapping[str, Path],
    converted: _Converted,
    keys: Mapping[str, str],
    store: Path,
    rendering: Rendering,
    pool: Workers[tuple[str, int]],
    show_progress: bool | None,
) -> tuple[dict[str, Document], dict[str, str]]:
    """Read and store documents; returns those that are done, and why the others failed."""
    done: dict[str, Document] = {}
    failed: dict[str, str] = {}
    described = {**converted.described}
    sources = {**todo, **converted.pdfs}
    rest = {name: path for name, path in todo.items() if name not in described}
    for (name, _), result in pool.run(((name, 0), _job(path, rendering)) for name, path in rest.items()):
        if isinstance(result, Description):
            described[name] = result
        elif name in converted.fallbacks and todo[name].suffix.lower() in ALONE:
            failed[name] = converted.fallbacks[name]
        elif isinstance(result, DocumentError):
            failed[name] = _bare(result, todo[name])

    read: dict[str, PagesRead] = defaultdict(PagesRead)
    total = sum(description.pages for description in described.values())
    unit = kind_at(next(iter(todo.values()))).words.page
    with progress_bar(label=f"{unit.capitalize()}s", total=total, show=show_progress, unit=unit) as bar:
        for (name, _), result in pool.run(_page_jobs(sources, described, store / "images", rendering)):
            if isinstance(result, DocumentError):
                failed.setdefault(name, _bare(result, todo[name]))
                bar.update(described[name].pages)
                continue
            assert isinstance(result, PagesRead)
            read[name].pages.extend(result.pages)
            read[name].lost.extend(result.lost)
            bar.update(len(result.pages) + len(result.lost))
            if len(read[name].pages) + len(read[name].lost) < described[name].pages:
                continue
            whole = read.pop(name)
            if whole.pages:
                drawn = {"drawn_by": converted.version if name in converted.pdfs else ""}
                fallback = {"fallback": converted.fallbacks.get(name, "")}
                done[name] = save_document(store, keys[name], name, described[name], whole, **drawn, **fallback)
            else:
                failed[name] = printable(min(whole.lost, key=lambda one: one.number).reason)
    return done, failed


def _bare(error: object, path: Path) -> str:
    """The reason without the file's name, which stands beside it already."""
    return printable(str(error).removeprefix(f"{path.name}: "))


def _page_jobs(
    todo: Mapping[str, Path], described: Mapping[str, Description], images: Path, rendering: Rendering
) -> Iterator[tuple[tuple[str, int], Job]]:
    for name, path in todo.items():
        if name not in described:
            continue
        total, boundaries = described[name].pages, described[name].boundaries
        step = total if boundaries else PAGES_PER_JOB  # segments are read in one go
        for start in range(0, total, step):
            parts = {"start": start, "stop": min(start + step, total), "folder": str(images)}
            yield (name, start), _job(path, dataclasses.replace(rendering, boundaries=boundaries), **parts)


def _job(path: Path, rendering: Rendering, **parts: Any) -> Job:
    kind = kind_at(path)
    patience = kind.megabyte * path.stat().st_size / 2**20
    return Job(
        reader=_reader(path), path=str(path), rendering=rendering, patience=patience, memory=kind.memory, **parts
    )


def _reader(path: Path) -> str:
    return READERS[path.suffix.lower()]
