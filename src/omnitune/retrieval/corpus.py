"""Corpora: any source that a user names, as a sequence whose items are read when they are asked for.

| source | an item |
|---|---|
| folder that `omnitune prepare` made | a page image |
| folder of documents with at least one PDF | a page image, rendered once and kept |
| folder of images | an image |
| folder of recordings or of clips | a whole recording or clip; what `omnitune prepare` made of it: a segment |
| `.jsonl`, `.json`, `.csv`, `.parquet`, or a folder of `datasets.save_to_disk` | a row's value in one column |
| `.txt` | a line |
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from omnitune import folders, io, runtime
from omnitune.documents.dataset import load
from omnitune.documents.folder import find_documents, is_drawn, read_folder
from omnitune.documents.read.pages import Rendering
from omnitune.errors import DatasetError
from omnitune.places import PREPARED

BUILDERS: dict[str, Callable[..., Any]] = {
    ".jsonl": datasets.Dataset.from_json,
    ".json": datasets.Dataset.from_json,
    ".csv": datasets.Dataset.from_csv,
    ".parquet": datasets.Dataset.from_parquet,
    ".txt": partial(datasets.Dataset.from_text, keep_linebreaks=False),
}
"""Suffix of a file, and what maps it; nothing of a table is held in memory."""

DEEPEST = 500
"""Levels of JSON; a parser in C takes a frame of the stack for each."""

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_OPEN, _CLOSED = np.frombuffer(b"[{", np.uint8), np.frombuffer(b"]}", np.uint8)
_ARCHIVES = (
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"\xfd7zXZ",
    b"BZh",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"7z\xbc\xaf",
    b"Rar!",
)
"""First bytes of what `datasets` unpacks."""

UNDECODED = (datasets.Image, datasets.Audio, datasets.Video)
"""Kinds of columns that stay encoded until an item is prepared."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Items to encode.

    Attributes:
        items: Raw items.
        reopen: Makes the same items in another process.
        rows: JSON Lines file that says what each item is, or None where its number in the source says it.
    """

    items: Sequence[Any]
    reopen: Callable[[], Sequence[Any]]
    rows: Path | None = None


def open_corpus(
    source: str | Path,
    store: Path,
    *,
    column: str | None = None,
    split: str | None = None,
    rendering: Rendering | None = None,
) -> Corpus:
    """Open a source of items.

    Args:
        source: A folder or a file, see the module.
        store: Folder for what has to be made first: `rows.jsonl`, and the rendered pages of documents.
        column: Column of a table; may be left out where there is one.
        split: Split of a saved `DatasetDict`; may be left out where there is one.
        rendering: How pages of documents become images.

    Raises:
        DatasetError: There is nothing of a known kind, or it does not have that column or split.
    """
    source = Path(source)
    if source.is_dir():
        if any((source / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return _reopened(partial(_column, _saved, source, column, split))
        return _of_folder(source, store, rendering or Rendering())
    if source.suffix.lower() not in BUILDERS or not source.is_file():
        raise DatasetError(
            f"source: expected a folder of documents, images or a dataset, or a file ({', '.join(BUILDERS)}), got "
            f"{str(source)!r}" + ("" if source.exists() else ", which is not there")
        )
    return _reopened(partial(_column, _table, source, column, split))


def _reopened(reopen: Callable[[], Sequence[Any]]) -> Corpus:
    return Corpus(items=reopen(), reopen=reopen)


def _of_folder(folder: Path, store: Path, rendering: Rendering) -> Corpus:
    """Pages and images, listed once in a file that other processes read."""
    if (folder / PREPARED).is_file():
        pages = load(folder)
        known = pages.tables["pages"]
        keys = zip(known["document"], known["number"], pages.pages, strict=True)
        rows = [{"document": name, "page": number, "path": page["path"]} for name, number, page in keys]
    else:
        files = find_documents(folder)
        if any(is_drawn(path) for path in files):
            documents, _ = read_folder(folder, store, rendering)
            rows = [
                {"document": one.name, "page": page.number, "path": str((store / "images" / page.image).absolute())}
                for one in documents
                for page in one.pages
            ]
        else:
            rows = [{"document": p.relative_to(folder).as_posix(), "path": str(p.absolute())} for p in files]
    listing = folders.writable_folder(store) / "rows.jsonl"
    io.write_jsonl(listing, rows)
    reopen = partial(_listed, listing)
    return Corpus(items=reopen(), reopen=reopen, rows=listing)


def _listed(listing: Path) -> list[dict[str, Any]]:
    return [{"path": row["path"], "bytes": None} for row in io.read_jsonl(listing)]


def _column(
    opened: Callable[[Path, str | None], datasets.Dataset], source: Path, column: str | None, split: str | None
) -> Sequence[Any]:
    """One column of a table, its media encoded as they are stored."""
    table = opened(source, split)
    names = table.column_names
    name = names[0] if column is None and len(names) == 1 else column
    if name not in names:
        raise DatasetError(f"column: expected one of {names} of {source}, got {'none' if name is None else repr(name)}")
    table = table.select_columns([name])
    if isinstance(table.features[name], UNDECODED):
        table = table.cast_column(name, type(table.features[name])(decode=False))
    values: Sequence[Any] = table[name]
    return values


def _table(source: Path, split: str | None) -> datasets.Dataset:
    if split is not None:
        raise DatasetError(f"split: expected none for the file {source}, which has no splits, got {split!r}")
    if not source.stat().st_size:
        raise DatasetError(f"source: expected at least one item, got none in {source}")
    _check_table(source)
    try:
        place = folders.writable_or_temporary(runtime.cache_folder() / "tables")
        return BUILDERS[source.suffix.lower()](str(source), cache_dir=str(place))
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        reason = error.__cause__ or error
        raise DatasetError(f"source: expected a table, got {source}, which cannot be read: {reason}") from error


def _check_table(source: Path) -> None:
    """Refuse files that end the process, or fill the disk, where a table is expected.

    Raises:
        DatasetError: It is an archive, which `datasets` would unpack whatever its size, or JSON that is nested so
            deeply that its parser overruns the stack.
    """
    with source.open("rb") as file:
        head = file.read(512)
        if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
            raise DatasetError(f"source: expected a table, got {source}, which is an archive; unpack it first")
        if source.suffix.lower() not in (".json", ".jsonl"):
            return
        file.seek(0)
        fewest, depth = (1 if source.suffix.lower() == ".json" else DEEPEST), 0
        for number, line in enumerate(file, start=1):
            if line.count(b"[") + line.count(b"{") + line.count(b"]") + line.count(b"}") < fewest:
                continue
            letters = np.frombuffer(_STRING.sub(b"", line), np.uint8)
            steps = np.isin(letters, _OPEN).astype(np.int64) - np.isin(letters, _CLOSED)
            if len(steps) and depth + int(steps.cumsum().max()) > DEEPEST:
                raise DatasetError(
                    f"source: expected values nested at most {DEEPEST} deep, got more in line {number} of {source}"
                )
            depth = max(0, depth + int(steps.sum()))


def _saved(source: Path, split: str | None) -> datasets.Dataset:
    found = datasets.load_from_disk(str(source))
    if isinstance(found, datasets.Dataset):
        found = datasets.DatasetDict({split or "": found})
    name = next(iter(found)) if split is None and len(found) == 1 else split
    if name not in found:
        raise DatasetError(
            f"split: expected one of {list(found)} of {source}, got {'none' if name is None else name!r}"
        )
    return found[name]
