"""The few verbs of every index: add, remove, search, save, open, len; and what they share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from omnitune.errors import InputError
from omnitune.retrieval.arrays import Array
from omnitune.retrieval.segments import Entry, Segments, Where

MISSING = -np.inf
"""Score of a row that was not compared: removed, filtered out, or no candidate."""

SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One document that answers a query.

    Attributes:
        rank: 1 for the best.
        score: Similarity to the query.
        row: Place in the index.
        entry: What the index says about it.
    """

    rank: int
    score: float
    row: int
    entry: Mapping[str, Any]


class SegmentedIndex:
    """Base of all indexes over `Segments`; a kind says how its rows are stored and compared.

    Args:
        segments: The rows; indexes of several stages can share them. None begins an index in memory.
        prefix: Put before the names of this index's arrays.
        made_by: Names the model whose embeddings these are, and hashes it: `{"model": name, "identity": hash}`.
        settings: JSON values of this kind of index.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        segments: Segments | None = None,
        *,
        prefix: str = "",
        made_by: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.segments = Segments() if segments is None else segments
        self.prefix = prefix
        self.made_by = dict(made_by or {})
        self.settings = settings

    @classmethod
    def open(cls, folder: str | Path, *, made_by: Mapping[str, str] | None = None) -> Self:
        """Open an index; its arrays are mapped, not read, and stay as they are while another process writes.

        Args:
            folder: Of the index.
            made_by: The model that queries will be encoded with, as given when the index was made; None checks nothing.

        Raises:
            InputError: The folder is no whole index of this kind, or another model made it.
        """
        segments = Segments.open(Path(folder))
        facts = segments.settings
        if facts.get("kind") != cls.kind or not {"made_by", "settings"} <= facts.keys():
            raise InputError(f"folder: expected an index of kind {cls.kind!r}, got {facts.get('kind')!r} in {folder}")
        opened = cls(segments, made_by=facts["made_by"], **facts["settings"])
        if made_by is not None:
            check_model(facts["made_by"], made_by)
        return opened

    def __len__(self) -> int:
        return len(self.segments)

    def add(self, entries: Sequence[Entry], rows: Any) -> None:
        """Add rows; one whose id is there is replaced. What is there already is not rewritten.

        Args:
            entries: JSON objects with an `id`, one for each row.
            rows: What this kind of index takes.

        Raises:
            InputError: There is not one entry with an id of its own for each row.
            ResourceError: The disk is full, or another process is writing to the folder.
        """
        entries = list(entries)
        arrays, count = self.pack(rows), self.rows_in(rows)
        if count != len(entries):
            raise InputError(f"entries: expected one for each of {count} rows, got {len(entries)}")
        self._describe()
        self.segments.append(entries, [{}] * len(entries), arrays)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove rows by id; returns how many were there."""
        return self.segments.remove(ids)

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder; one that was in memory lives there from then on."""
        self._describe()
        self.segments.save(Path(folder))

    def _describe(self) -> None:
        self.segments.settings = {"kind": self.kind, "made_by": self.made_by, "settings": self.settings}

    def search(self, queries: Any, top_k: int = 10, where: Where | None = None, **options: Any) -> list[list[Found]]:
        """Find the best rows of every query, best first, equal scores in the order in which they were added.

        Args:
            queries: What this kind of index compares.
            top_k: Rows to find for each query.
            where: Values that entries must have, such as `{"document": ["a.pdf", "b.pdf"]}`.
            **options: Of this kind of index.

        Raises:
            InputError: `where` names a value that no entry has, or `top_k` is not positive.
        """
        check_top_k(top_k)
        allowed = self.segments.allowed(where)
        found: list[list[Found]] = []
        for scores in self.scores(queries, allowed, **options):
            rows = best_rows(scores, top_k)
            found.append(
                [
                    Found(rank=rank, score=float(scores[row]), row=int(row), entry=self.segments.entry(int(row)))
                    for rank, row in enumerate(rows, start=1)
                ]
            )
        return found

    def refresh(self) -> None:
        """See what another process has written since the index was opened."""
        self.segments.refresh()
        self.settings = {**self.settings, **self.segments.settings["settings"]}

    # -- what a kind says

    def pack(self, rows: Any) -> dict[str, Array]:
        """The arrays that stand for rows, their names with the prefix."""
        raise NotImplementedError

    def rows_in(self, rows: Any) -> int:
        """Count the rows."""
        return len(rows)

    def scores(
        self, queries: Any, allowed: NDArray[np.bool_], *args: Any, **options: Any
    ) -> Iterable[NDArray[np.float32]]:
        """For every query, the scores of all rows `(size,)`, `MISSING` where a row was not compared."""
        raise NotImplementedError


def check_top_k(top_k: Any) -> None:
    """Refuse what is no number of rows.

    Raises:
        InputError: It is not whole, or not positive.
    """
    if not isinstance(top_k, int | np.integer) or top_k < 1:
        raise InputError(f"top_k: expected at least 1, got {top_k}")


def best_rows(scores: NDArray[np.float32], top_k: int) -> NDArray[np.int64]:
    """Rows of the `top_k` best scores that are not `MISSING`, best first, equal ones by row.

    Raises:
        InputError: A score is no number, because the embedding of the query or of a row is none.
    """
    if not scores.max(initial=MISSING) < np.inf:  # of NaN it is NaN
        raise InputError("queries: expected finite similarities, got NaN or infinity; an embedding is no number")
    if top_k < len(scores):
        # Everything from the last kept score on: `argpartition` picks arbitrarily among equal ones.
        least = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
        rows = np.flatnonzero((scores >= least) & (scores > MISSING))
    else:
        rows = np.flatnonzero(scores > MISSING)
    order = np.argsort(-scores[rows], kind="stable")[:top_k]
    return rows[order].astype(np.int64)


def check_model(made_by: Mapping[str, str], model: Mapping[str, str]) -> None:
    """Refuse to search an index with another model than it was made by.

    Raises:
        InputError: They differ; names both.
    """
    if made_by and made_by.get("identity") != model.get("identity"):
        raise InputError(
            f"model: expected {made_by.get('model')!r} ({made_by.get('identity')}), which made the index, got "
            f"{model.get('model')!r} ({model.get('identity')}); search with the first, or make the index again"
        )
