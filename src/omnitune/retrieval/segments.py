"""Rows of an index on disk: segments that only ever get more, and a note of the rows that were removed.

    folder/index.json                   which segments count, which of their rows are removed, and the index's settings
           <random name>.safetensors    one segment: entries, details and the arrays of each stage

A segment is written whole under a name of its own and never changes; `index.json` is replaced in one rename. So adding
costs what is added, a stop at any point leaves the index as it was, and readers keep what they opened while one process
writes (a second writer is told). Rows that are removed stay in their segment until all of it is removed, or `compact`.
"""

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune import folders, io
from omnitune.errors import InputError
from omnitune.retrieval.arrays import Array, offsets_of, read_arrays, write_arrays

FACTS = "index.json"
SEGMENT = re.compile(r"[0-9a-f]{32}\.safetensors")
FORMAT = 2
CHANGING = "changing the index"
"""What a process does that holds the folder, for the sentence that a second one gets."""

Entry = Mapping[str, Any]
Where = Mapping[str, Any]
"""Name of a value in the entries, to the value or the list of values that it may have."""


@dataclass(slots=True, kw_only=True)
class Part:
    """One segment.

    Attributes:
        name: Of its file.
        arrays: Name to array, mapped.
        alive: Rows that are not removed `(rows,)`.
        columns: Values of the entries by name, each with the rows' codes; made when a filter first asks.
    """

    name: str
    arrays: Mapping[str, Array]
    alive: NDArray[np.bool_]
    columns: dict[str, tuple[dict[Any, int], NDArray[np.int32]]] | None = field(default=None)

    def __len__(self) -> int:
        return len(self.alive)

    def entry(self, row: int) -> dict[str, Any]:
        """The entry of a row: its id, document, page, ..."""
        return _object(self.arrays, "entries", row)

    def details(self, row: int) -> dict[str, Any]:
        """The details of a row, which no filter reads: its text, boxes, ..."""
        return _object(self.arrays, "details", row)

    def allowed(self, where: Where | None) -> NDArray[np.bool_]:
        """Rows that are there and pass a filter `(rows,)`."""
        if not where:
            return self.alive
        if self.columns is None:
            columns: dict[str, tuple[dict[Any, int], NDArray[np.int32]]] = {}
            for row in range(len(self)):
                for name, value in self.entry(row).items():
                    values, codes = columns.setdefault(name, ({}, np.full(len(self), -1, dtype=np.int32)))
                    codes[row] = values.setdefault(_plain(value), len(values))
            self.columns = columns  # whole: other threads read it
        passed = self.alive.copy()
        for name, wanted in where.items():
            values, codes = self.columns.get(name, ({}, np.full(len(self), -1, dtype=np.int32)))
            several = isinstance(wanted, list | tuple | set | frozenset)
            found = [values[_plain(value)] for value in (wanted if several else [wanted]) if _plain(value) in values]
            passed &= np.isin(codes, found)
        return passed


class Segments:
    """Rows with entries, details and arrays, on disk or in memory.

    Args:
        folder: Of the segments; None keeps them in memory until `save`.

    Attributes:
        parts: The segments, in the order in which they were added; rows are counted through all of them.
        settings: JSON values that an index keeps about itself.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.parts: list[Part] = []
        self.settings: dict[str, Any] = {}
        self._rows: dict[str, tuple[int, int]] | None = None
        self._held = False

    @classmethod
    def open(cls, folder: Path) -> "Segments":
        """Map the segments of a folder; nothing but `index.json` is read.

        Raises:
            DatasetError: A segment is named that lies outside of the folder.
            InputError: The folder is not an index, of another format, or a segment is missing or cut.
        """
        opened = cls(folder)
        opened.refresh()
        return opened

    def refresh(self) -> None:
        """See what another process has written since; segments that are known are kept."""
        assert self.folder is not None, "segments in memory have nothing to refresh from"
        for _ in range(8):  # a segment can go between the two reads when another process compacts
            facts = _whole_facts(self.folder)
            known = {part.name: part for part in self.parts}
            parts = [self._part(one, known.get(one["name"])) for one in facts["segments"]]
            whole = [part for part in parts if part is not None]
            if len(whole) == len(parts):
                self.parts, self.settings, self._rows = whole, facts["settings"], None
                return
        lost = [one["name"] for one, part in zip(facts["segments"], parts, strict=True) if part is None]
        raise InputError(f"folder: expected whole segments, got {lost} missing or cut in {self.folder}; make it again")

    def _part(self, facts: dict[str, Any], known: Part | None) -> Part | None:
        arrays = known.arrays if known is not None else None
        if arrays is None:
            assert self.folder is not None
            # The index may be a stranger's: a name that leads out of it would show that file's rows, and removing them
            # would delete it.
            found = read_arrays(folders.inside(self.folder, str(facts["name"])), private=True)
            if found is None or len(found[0].get("entries_offsets", ())) != facts["rows"] + 1:
                return None
            arrays = found[0]
        alive = np.ones(int(facts["rows"]), dtype=bool)
        for start, stop in facts["removed"]:
            alive[start:stop] = False
        return Part(name=facts["name"], arrays=arrays, alive=alive, columns=None if known is None else known.columns)

    def __len__(self) -> int:
        return sum(int(part.alive.sum()) for part in self.parts)

    @property
    def size(self) -> int:
        """Rows with those that were removed."""
        return sum(map(len, self.parts))

    def starts(self) -> NDArray[np.int64]:
        """Number of the first row of every segment, and of the last one's end `(segments + 1,)`."""
        return offsets_of(map(len, self.parts))

    def place(self, row: int) -> tuple[Part, int]:
        """The segment of a row and its number there."""
        starts = self.starts()
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return self.parts[number], row - int(starts[number])

    def entry(self, row: int) -> dict[str, Any]:
        """The entry of a row."""
        part, at = self.place(row)
        return part.entry(at)

    def details(self, row: int) -> dict[str, Any]:
        """The details of a row."""
        part, at = self.place(row)
        return part.details(at)

    def allowed(self, where: Where | None) -> NDArray[np.bool_]:
        """Rows that are there and pass a filter `(size,)`.

        Raises:
            InputError: No entry has a value of that name.
        """
        masks = [part.allowed(where) for part in self.parts]
        known = {name for part in self.parts for name in part.columns or {}}
        unknown = sorted(set(where or {}) - known)
        if unknown and self.parts:
            raise InputError(f"where: expected some of {sorted(known)}, got {unknown}")
        return np.concatenate(masks) if masks else np.zeros(0, dtype=bool)

    def ids(self) -> dict[str, tuple[int, int]]:
        """Id of every row that is there, to its segment's number and its row there."""
        if self._rows is None:
            self._rows = {
                str(part.entry(int(row))["id"]): (number, int(row))
                for number, part in enumerate(self.parts)
                for row in np.flatnonzero(part.alive)
            }
        return self._rows

    def append(self, entries: Sequence[Entry], details: Sequence[Entry], arrays: Mapping[str, Array]) -> None:
        """Add rows; a row whose id is there takes that one's place.

        Args:
            entries: JSON objects with an `id`, and what filters and results show.
            details: JSON objects that only results show, such as the text.
            arrays: What each stage keeps of these rows.

        Raises:
            InputError: An entry has no id, or two have the same.
            ResourceError: The disk is full, or another process is writing.
        """
        wanted = [str(entry["id"]) for entry in entries if "id" in entry]
        if len(wanted) != len(entries) or len(set(wanted)) != len(wanted):
            twice = sorted({one for one in wanted if wanted.count(one) > 1})[:3]
            raise InputError(f"entries: expected an id of its own for each, got {twice or 'entries without one'}")
        if not entries:
            return
        name = f"{uuid.uuid4().hex}.safetensors"
        held = {**_blobs("entries", entries), **_blobs("details", details), **arrays}
        if self.folder is not None:
            write_arrays(self.folder / name, held)
            found = read_arrays(self.folder / name, private=True)
            assert found is not None, "it was written whole"
            held = dict(found[0])
        with self.changing():
            self._remove(wanted)
            self.parts.append(Part(name=name, arrays=held, alive=np.ones(len(entries), dtype=bool)))

    def remove(self, ids: Iterable[str]) -> int:
        """Remove rows by id; those that are not there are passed over.

        Returns:
            How many were removed.
        """
        with self.changing():
            return self._remove(ids)

    def _remove(self, ids: Iterable[str]) -> int:
        known = self.ids()
        places = [known[one] for one in set(ids) if one in known]
        for number, row in places:
            self.parts[number].alive[row] = False
        self._rows = None
        return len(places)

    @contextmanager
    def changing(self, *, anew: bool = False) -> Iterator[None]:
        """Hold the folder for a change and write it down in one rename when the block ends well.

        A change within it is part of it, so several rows can be added as one.

        Args:
            anew: Begin without rows, whatever is there: until the block ends well, the folder is no index.
        """
        if self.folder is None or self._held:
            yield
            self.parts = [part for part in self.parts if part.alive.any()]
            self._rows = None
            return
        with folders.locked(self.folder, task=CHANGING):
            settings = self.settings
            if anew:
                io.remove_file(self.folder / FACTS)
                self.parts, self._rows = [], None
                # Segments that a stopped change left go too; files of other names are not ours.
                before = {path.name for path in self.folder.iterdir() if SEGMENT.fullmatch(path.name)}
            else:
                if (self.folder / FACTS).is_file():
                    self.refresh()
                before = {part.name for part in self.parts}
            self.settings, self._held = settings, True
            try:
                yield
            finally:
                self._held = False
            self.parts = [part for part in self.parts if part.alive.any()]
            self._rows = None
            self._write()
            for name in before - {part.name for part in self.parts}:
                (self.folder / name).unlink(missing_ok=True)

    def _write(self) -> None:
        assert self.folder is not None
        segments = []
        for part in self.parts:
            gone = np.flatnonzero(~part.alive)
            runs = np.split(gone, np.flatnonzero(np.diff(gone) != 1) + 1) if len(gone) else []
            removed = [[int(run[0]), int(run[-1]) + 1] for run in runs]
            segments.append({"name": part.name, "rows": len(part), "removed": removed})
        io.write_json(self.folder / FACTS, {"format": FORMAT, "settings": self.settings, "segments": segments})

    def save(self, folder: Path, *, held: bool = False) -> None:
        """Write all rows to another folder, which becomes a whole index with the last rename.

        Args:
            folder: The folder.
            held: The caller holds it for the change already.
        """
        folders.writable_folder(folder)
        for part in self.parts:
            write_arrays(folder / part.name, part.arrays)
        copy = Segments(folder)
        copy.parts, copy.settings = self.parts, self.settings
        with nullcontext() if held else folders.locked(folder, task=CHANGING):
            copy._write()
        if self.folder is None:
            self.folder = folder
            self.refresh()


def _whole_facts(folder: Path) -> dict[str, Any]:
    """Read `index.json`, with all that is looked up in it.

    Raises:
        InputError: It is missing, torn or of another format.
    """
    facts = io.read_json_or_none(folder / FACTS)
    if isinstance(facts, dict) and facts.get("format") not in (FORMAT, None):
        raise InputError(
            f"folder: expected an index of format {FORMAT}, got {facts['format']} in {folder}; make it again"
        )
    with suppress(KeyError, TypeError, AttributeError):
        kinds = {"name": str, "rows": int, "removed": list}
        named = all(isinstance(one[name], kind) for one in facts["segments"] for name, kind in kinds.items())
        if named and facts["format"] == FORMAT and isinstance(facts["settings"], dict):
            return dict(facts)
    raise InputError(f"folder: expected an index, got {folder} without a whole {FACTS}; make it again")


def _blobs(name: str, objects: Sequence[Entry]) -> dict[str, Array]:
    texts = [json.dumps(one, ensure_ascii=False).encode("utf-8", "surrogatepass") for one in objects]
    raw = np.frombuffer(b"".join(texts), dtype=np.uint8)
    return {name: raw, f"{name}_offsets": offsets_of(map(len, texts))}


def _object(arrays: Mapping[str, Array], name: str, row: int) -> dict[str, Any]:
    start, stop = arrays[f"{name}_offsets"][row : row + 2]
    try:
        found = json.loads(arrays[name][start:stop].tobytes().decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"folder: expected whole segments, got one whose {name} are damaged; make the index again")
    return found


def _plain(value: Any) -> Any:
    """A value that can be looked up: lists and objects of an entry by their JSON."""
    return value if isinstance(value, str | int | float | bool | None) else json.dumps(value, sort_keys=True)
