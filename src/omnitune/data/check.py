"""Find the items and labels of a dataset that cannot be used before hours of training find them.

Every distinct item is loaded once, in threads, and with several ranks each loads its share of the rows. A dataset of
texts costs one look for missing values.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import torch

from omnitune import runtime
from omnitune.data.columns import Rows
from omnitune.errors import DatasetError, MediaError, OmnituneError
from omnitune.ops.collectives import exchanged, world_size
from omnitune.types import Column

SHOWN = 10
"""Bad items that an error lists."""

CHUNK = 8
"""Items that a thread takes at once."""

WINDOW = 16
"""Chunks in flight; bounds the memory of a check."""

ANSWER_SECONDS = 60.0
"""Ranks that still load answer those that have finished so often, because a collective gives up after minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadItem:
    """One item that cannot be encoded.

    Attributes:
        row: Row number in the user's dataset.
        column: Column name.
        reason: What is wrong with it.
        dataset: The dataset's name among several, or None.
    """

    row: int
    column: str
    reason: str
    dataset: str | None = None

    def __str__(self) -> str:
        place = Column(name=self.column, items=[None], rows=[self.row], dataset=self.dataset).place(0)
        return f"{place}: {self.reason}"


def find_bad_items(
    rows: Rows,
    columns: Sequence[str],
    load: Callable[[Any], object] | None,
    codes: Callable[[], np.ndarray],
    *,
    label: str = "Checking items",
    show_progress: bool | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[BadItem]:
    """Every cell that is empty or cannot be loaded.

    Args:
        rows: The dataset.
        columns: Columns that will be encoded.
        load: Loads an item or raises; None looks for missing values only.
        codes: Numbers of the cells' contents `(rows, columns)`, so that an item that recurs is loaded once; asked for
            only when something is loaded.
        label: Label of the progress bar.
        show_progress: None shows it on a terminal.
        tick: Called for every cell.

    Returns:
        Bad items by row and column.
    """
    if load is None and not rows.transformed:
        # By the storage's own count, without reading rows that miss nothing.
        columns = [name for name in columns if _flattened(rows.dataset.data.column(name)).null_count]
        if not columns:
            return []
        gaps = ((row, place, _gap(item)) for row, place, item in _cells(rows, columns))
        return [_bad(rows, row, columns[place], gap) for row, place, gap in gaps if gap is not None]
    numbers = codes() if load is not None else None
    first: set[tuple[int, int]] = set()  # row and place of the first cell of every content
    if numbers is not None:
        _, cells = np.unique(numbers.reshape(-1), return_index=True)
        first = {divmod(int(cell), numbers.shape[1]) for cell in cells}
    bad: list[BadItem] = []
    reasons: dict[int, str] = {}
    todo = _cells(rows, columns)
    bar = runtime.progress(todo, label=label, total=len(rows) * len(columns), show=show_progress, unit="item")
    with ThreadPoolExecutor(runtime.cores(), thread_name_prefix="omnitune-check") as pool:
        waiting: deque[Future[dict[int, str]]] = deque()
        chunk: list[tuple[int, Any]] = []
        for row, place, item in bar:
            tick()
            gap = _gap(item)
            if gap is not None:
                bad.append(_bad(rows, row, columns[place], gap))
            elif numbers is not None and (row, place) in first:
                chunk.append((int(numbers[row, place]), item))
            if len(chunk) == CHUNK:
                waiting.append(pool.submit(_reasons, load, chunk))
                chunk = []
            while len(waiting) > WINDOW:
                reasons.update(waiting.popleft().result())
        waiting.append(pool.submit(_reasons, load, chunk))
        for future in waiting:
            reasons.update(future.result())
    if numbers is not None and reasons:
        for row, place in np.argwhere(np.isin(numbers, list(reasons))).tolist():
            bad.append(_bad(rows, row, columns[place], reasons[int(numbers[row, place])]))
    order = {name: place for place, name in enumerate(columns)}
    return sorted(set(bad), key=lambda item: (item.row, order[item.column]))


class Answers:
    """Lets ranks that have finished wait for the others without running into the time limit of a collective.

    Every rank calls `tick` while it works, and then `finish`.
    """

    def __init__(self) -> None:
        self._last = time.monotonic()

    def tick(self) -> None:
        """Tell the others now and then that this rank still works."""
        if world_size() > 1 and time.monotonic() - self._last > ANSWER_SECONDS:
            exchanged(None)
            self._last = time.monotonic()

    def finish(self, found: list[BadItem]) -> list[BadItem]:
        """Collect what all ranks found, by row, once the last has finished."""
        while None in (answers := exchanged(found)):
            pass
        return sorted({item for part in answers for item in part}, key=lambda item: item.row)


def find_bad_labels(rows: Rows, column: str) -> list[BadItem]:
    """Every label that is no finite number, and no list of them.

    Args:
        rows: The dataset.
        column: Its label column.
    """
    if not rows.transformed and _all_finite(rows.dataset.data.column(column)):
        return []
    labels = ((index, row[column]) for index, row in enumerate(row for chunk in rows.chunks() for row in chunk))
    faults = ((index, label_fault(label)) for index, label in labels)
    return [_bad(rows, index, column, fault) for index, fault in faults if fault is not None]


def label_fault(label: Any) -> str | None:
    """Say why a label is refused, or None: it has to be a finite number, or a list of such."""
    if label is None:
        return "missing (None)"
    if isinstance(label, list | tuple):
        return next((fault for fault in map(label_fault, label) if fault is not None), None)
    if isinstance(label, torch.Tensor | np.ndarray):
        numbers = torch.as_tensor(label)
        return None if numbers.isfinite().all() else f"expected finite numbers, got {label}"
    if not isinstance(label, int | float | np.number | np.bool_):
        return f"expected a number or a list of numbers, got {label!r:.80}"
    return None if math.isfinite(label) else f"expected a finite number, got {label}"


def _all_finite(column: Any) -> bool:
    """True where the storage knows that every label is a number: nothing is read row by row."""
    column = _flattened(column)
    if column.null_count:
        return False
    if pyarrow.types.is_floating(column.type):
        return pyarrow.compute.all(pyarrow.compute.is_finite(column)).as_py() is not False
    return bool(pyarrow.types.is_integer(column.type) or pyarrow.types.is_boolean(column.type))


def refuse(bad: Sequence[BadItem]) -> None:
    """Raise an error that lists bad items, if there are any.

    Raises:
        DatasetError: There are; names dataset, row and column of the first ones.
    """
    if not bad:
        return
    listed = "\n".join(f"  {item}" for item in bad[:SHOWN])
    more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    raise DatasetError(
        f"{len(bad)} item(s) cannot be used, so training does not start:\n{listed}{more}\n"
        'Repair or drop them, or leave their rows out with on_bad_item="skip".'
    )


def _flattened(column: Any) -> Any:
    """The values of a column in whatever lists, or the lists themselves where one is missing."""
    while not column.null_count and (pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type)):
        column = pyarrow.compute.list_flatten(column)
    return column


def _gap(item: Any) -> str | None:
    """Say what a cell misses, or None: it may be empty, or a list with an empty entry."""
    if item is None:
        return "missing (None)"
    if isinstance(item, list | tuple) and any(entry is None for entry in item):
        return f"entry {[entry is None for entry in item].index(True)} of its list is missing (None)"
    return None


def _cells(rows: Rows, columns: Sequence[str]) -> Iterator[tuple[int, int, Any]]:
    index = 0
    for chunk in rows.chunks():
        for row in chunk:
            for place, name in enumerate(columns):
                item = row[name]
                empty = isinstance(item, dict) and item and all(value is None for value in item.values())
                yield index, place, None if empty else item
            index += 1


def _reasons(load: Callable[[Any], object] | None, chunk: Sequence[tuple[int, Any]]) -> dict[int, str]:
    """Say why items cannot be loaded, by the number of their content; those that can are left out."""
    if load is None:
        return {}
    found = {}
    for code, item in chunk:
        try:
            load(item)
        except MediaError as error:
            found[code] = error.reason
        except (OmnituneError, OSError) as error:
            found[code] = str(error)
    return found


def _bad(rows: Rows, row: int, column: str, reason: str) -> BadItem:
    return BadItem(row=rows.numbers[row], column=column, reason=reason, dataset=rows.name)
