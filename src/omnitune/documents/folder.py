"""A folder of documents, recordings or clips: which files they are, and their pages or segments, made once.

Every document that is done leaves one file, `documents/<key>.json`, whose key is the SHA-256 of the document's bytes
and of the settings of the rendering. A run that was killed goes on with the documents that have none; a file that was
changed has another key; a document that cannot be read is named with the reason and costs nothing but itself.
"""

import dataclasses
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from omnitune.documents.kinds import Kind, KindName, kind_of
from omnitune.documents.queries.captions import Caption
from omnitune.documents.read.headings import headings
from omnitune.documents.read.pages import Description, OutlineEntry, Page, Rendering, picture_of
from omnitune.documents.read.text import clean
from omnitune.documents.read.worker import Job, Workers
from omnitune.errors import DatasetError, DocumentError
from omnitune.io import writing
from omnitune.runtime import cores, progress_bar, require

logger = logging.getLogger(__name__)

_IMAGES = "omnitune.documents.read.images"
READERS = {
    ".pdf": "omnitune.documents.read.pdf",
    ".png": _IMAGES,
    ".jpg": _IMAGES,
    ".jpeg": _IMAGES,
    ".webp": _IMAGES,
    ".tif": _IMAGES,
    ".tiff": _IMAGES,
    ".bmp": _IMAGES,
    **dict.fromkeys(
        (".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma"),
        "omnitune.documents.read.audio",
    ),
    **dict.fromkeys(
        (".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".wmv", ".flv", ".mpg", ".mpeg"),
        "omnitune.documents.read.video",
    ),
}
"""Suffix of a file, and the module (see `pages.Reader`) that reads its kind. A new kind of document is a row here."""

LAYOUT_VERSION = 1
"""Raise it when what is stored of a page changes, so that everything is made again."""

PAGES_PER_JOB = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredPage:
    """A page as it is kept.

    Attributes:
        number: From 1.
        label: The number printed on it, the times of a segment ("0:30-0:45"), or "".
        image: File name in the image folder: of its image, or of a segment's recording (`.wav`) or clip (`.mp4`).
        look: Difference hash, "" for a page of one colour, or silence.
        text: Cleaned text layer, "" without one.
        headings: Lines set like headings, from the top.
        start: Second at which a segment begins; 0 of a page.
        end: Second at which it ends; 0 of a page.
    """

    number: int
    label: str
    image: str
    look: str
    text: str
    headings: tuple[str, ...] = ()
    start: float = 0.0
    end: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document that was read.

    Attributes:
        name: Path inside the folder, with forward slashes.
        key: Hash of its content and of the rendering.
        title: By its own metadata, or "".
        outline: In reading order.
        pages: All of them, in order.
        captions: What people wrote about a recording or clip.
    """

    name: str
    key: str
    title: str
    outline: tuple[OutlineEntry, ...]
    pages: tuple[StoredPage, ...]
    captions: tuple[Caption, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A document that could not be read, and why."""

    name: str
    reason: str


def find_documents(folder: Path, kind: KindName | Literal["auto"] = "auto") -> list[Path]:
    """All files below a folder that are documents by their suffix, ordered by name; hidden ones are left out.

    Args:
        folder: With its sub-folders.
        kind: Which files count; `"auto"` takes all, which must be of one kind.

    Raises:
        DatasetError: The folder is not there, has no documents in it, or has several kinds.
    """
    if not folder.is_dir():
        raise DatasetError(f"folder: expected a folder of documents, got {str(folder)!r}, which is not a folder")
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in READERS and not hidden and path.is_file():
            found[kind_at(path).name].append(path)
    if kind != "auto":
        found = {kind: found[kind]} if found[kind] else {}
    if not found:
        suffixes = [suffix for suffix, reader in READERS.items() if kind in ("auto", kind_of(reader).name)]
        raise DatasetError(
            f"folder: expected documents ({', '.join(suffixes)}) in {str(folder)!r} or below it, found none"
        )
    if len(found) > 1:
        listed = ", ".join(
            f"{name} ({len(paths)} files, such as {paths[0].relative_to(folder).as_posix()})"
            for name, paths in found.items()
        )
        first = next(iter(found))
        raise DatasetError(
            f"folder: expected pages, recordings or clips, one kind, in {str(folder)!r}, got {listed}; give each a "
            f"folder of its own, or choose with kind={first!r} (in a recipe, prepare: {{kind: {first}}})"
        )
    return next(iter(found.values()))


def kind_at(path: Path) -> Kind:
    """What kind a file is, by its suffix."""
    return kind_of(_reader(path))


def key_of(path: Path, rendering: Rendering) -> str:
    """Hash of a document's content, its kind, and everything that decides how it is kept."""
    settings = [getattr(rendering, name) for name in kind_at(path).settings]
    digest = hashlib.sha256(json.dumps([LAYOUT_VERSION, _reader(path), settings]).encode())
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_folder(
    folder: Path,
    store: Path,
    rendering: Rendering,
    *,
    kind: KindName | Literal["auto"] = "auto",
    workers: int | None = None,
    show_progress: bool | None = None,
) -> tuple[list[Document], list[Skipped]]:
    """Read every document of a folder, or take it from what is stored.

    Args:
        folder: Where the documents are, with its sub-folders.
        store: Where `documents/` and `images/` are kept.
        rendering: How pages become images.
        kind: Which files count, as for `find_documents`.
        workers: Processes that read; None takes one a core.
        show_progress: Whether to show a bar; None decides by the terminal.

    Returns:
        Documents in the order of their names, and those that were skipped.

    Raises:
        DatasetError: No document could be read; lists the reasons.
        ResourceError: The disk is full; documents that are done stay done.
        MissingExtraError: The package that reads this kind is not installed.
    """
    names = {path.relative_to(folder).as_posix(): path for path in find_documents(folder, kind)}
    what = kind_at(next(iter(names.values())))
    if what.extra is not None:
        require(what.extra[1], extra=what.extra[0])
    keys: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, path in names.items():
        try:
            keys[name] = key_of(path, rendering)
        except OSError as error:
            failed[name] = f"the file cannot be opened ({error.strerror})"
    todo = {name: names[name] for name, key in keys.items() if not _is_done(store, key)}
    if todo:
        with Workers[tuple[str, int]](workers or cores()) as pool:
            failed |= _read(todo, keys, store, rendering, pool, show_progress)
    skipped = [Skipped(name=name, reason=failed[name]) for name in names if name in failed]
    for one in skipped:
        logger.warning("skipped %s: %s", one.name, one.reason)
    documents = [_load(store, keys[name], name) for name in names if name not in failed]
    if not documents:
        reasons = "\n".join(f"  {one.name}: {one.reason}" for one in skipped)
        raise DatasetError(
            f"folder: none of the {len(skipped)} {what.words.document}s in {str(folder)!r} can be read:\n{reasons}"
        )
    return documents, skipped


def _read(
    todo: dict[str, Path],
    keys: dict[str, str],
    store: Path,
    rendering: Rendering,
    pool: Workers[tuple[str, int]],
    show_progress: bool | None,
) -> dict[str, str]:
    """Read and store documents; returns why those failed that did."""
    failed: dict[str, str] = {}
    described: dict[str, Description] = {}
    questions = (
        ((name, 0), Job(reader=_reader(path), path=str(path), rendering=rendering, patience=_patience(path)))
        for name, path in todo.items()
    )
    for (name, _), result in pool.run(questions):
        if isinstance(result, DocumentError):
            failed[name] = _bare(result, todo[name])
        else:
            described[name] = result
    made: dict[str, list[Page]] = defaultdict(list)
    total = sum(description.pages for description in described.values())
    unit = kind_at(next(iter(todo.values()))).words.page
    with progress_bar(label=f"{unit.capitalize()}s", total=total, show=show_progress, unit=unit) as bar:
        order = [(name, todo[name], described[name]) for name in todo if name in described]
        for (name, start), result in pool.run(_page_jobs(order, store / "images", rendering)):
            bar.update(_stop(described[name], start) - start)
            if isinstance(result, DocumentError):
                failed.setdefault(name, _bare(result, todo[name]))
                continue
            made[name] += result
            if len(made[name]) == described[name].pages:
                _save(store, keys[name], described[name], made.pop(name))
    return failed


def _page_jobs(
    order: Sequence[tuple[str, Path, Description]], images: Path, rendering: Rendering
) -> Iterator[tuple[tuple[str, int], Job]]:
    for name, path, described in order:
        start = 0
        while start < described.pages:
            stop = _stop(described, start)
            yield (
                (name, start),
                Job(
                    reader=_reader(path),
                    path=str(path),
                    start=start,
                    stop=stop,
                    folder=str(images),
                    rendering=dataclasses.replace(rendering, marks=described.marks),
                    patience=_patience(path),
                ),
            )
            start = stop


def _stop(described: Description, start: int) -> int:
    """After the last page of the job that begins at `start`: what has no pages of its own is read in one go."""
    return described.pages if described.marks else min(start + PAGES_PER_JOB, described.pages)


def _patience(path: Path) -> float:
    return kind_at(path).megabyte * path.stat().st_size / 2**20


def _reader(path: Path) -> str:
    return READERS[path.suffix.lower()]


def _bare(error: DocumentError, path: Path) -> str:
    """The reason without the file's name, which stands beside it already."""
    return str(error).removeprefix(f"{path.name}: ")


def _marker(store: Path, key: str) -> Path:
    return store / "documents" / f"{key}.json"


def _is_done(store: Path, key: str) -> bool:
    """Whether a document was read to its end and its images are still there."""
    marker = _marker(store, key)
    if not marker.is_file():
        return False
    kept = json.loads(marker.read_text(encoding="utf-8"))
    files = {name for page in kept["pages"] for name in (page["image"], picture_of(page["image"]))}
    return all((store / "images" / name).is_file() for name in files)


def _save(store: Path, key: str, described: Description, pages: Sequence[Page]) -> None:
    in_order = sorted(pages, key=lambda page: page.number)
    marked = headings(in_order)
    kept = {
        "title": described.title,
        "outline": [dataclasses.asdict(entry) for entry in described.outline],
        "pages": [
            dataclasses.asdict(
                StoredPage(
                    number=page.number,
                    label=page.label,
                    image=page.image,
                    look=page.look,
                    text=clean(page.text),
                    headings=tuple(marks),
                    start=page.start,
                    end=page.end,
                )
            )
            for page, marks in zip(in_order, marked, strict=True)
        ],
    }
    with writing(_marker(store, key)) as temporary:
        temporary.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")


def _load(store: Path, key: str, name: str) -> Document:
    kept = json.loads(_marker(store, key).read_text(encoding="utf-8"))
    return Document(
        name=name,
        key=key,
        title=kept["title"],
        outline=tuple(OutlineEntry(**entry) for entry in kept["outline"]),
        pages=tuple(StoredPage(**{**page, "headings": tuple(page["headings"])}) for page in kept["pages"]),
    )
