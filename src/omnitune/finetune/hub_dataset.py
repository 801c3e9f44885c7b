"""Training rows and an evaluator from a dataset that a recipe names, on the hub or on disk.

The first column holds queries, the second their pages, the others hard negatives. All pages of the evaluation rows,
hard negatives included, are the corpus that their queries are asked against.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image, load_dataset, load_from_disk

from omnitune.errors import DatasetError
from omnitune.evaluation import InformationRetrievalEvaluator

logger = logging.getLogger(__name__)


def load_rows(settings: Mapping[str, Any], *, evaluation: bool = False) -> Dataset:
    """The rows that a recipe's `dataset` section names.

    Args:
        settings: The section.
        evaluation: Whether to take the evaluation rows, by `eval_name`, `eval_split` and `eval_columns`.

    Raises:
        DatasetError: A column that it names is not there, or there are no rows.
    """
    prefix = "eval_" if evaluation else ""
    split = settings.get(f"{prefix}split") or "train"
    place = Path(settings["path"])
    if (place / "dataset_info.json").is_file() or (place / "dataset_dict.json").is_file():
        loaded = load_from_disk(str(place))
        rows = loaded[split] if isinstance(loaded, DatasetDict) else loaded
    else:
        rows = load_dataset(
            settings["path"],
            settings.get(f"{prefix}name"),
            data_files=settings.get("data_files"),
            revision=settings.get("revision"),
            split=split,
        )
    columns = settings.get(f"{prefix}columns") or rows.column_names
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise DatasetError(f"dataset.{prefix}columns: expected names among {rows.column_names}, got {missing}")
    if len(columns) < 2 or not len(rows):
        raise DatasetError(
            f"dataset: expected rows of query and page at least, got {len(rows)} rows of {list(columns)} "
            f"in {settings['path']!r}"
        )
    return rows.select_columns(list(columns))


def evaluator_of(rows: Dataset, *, batch_size: int) -> InformationRetrievalEvaluator:
    """Every query against all pages of the rows.

    Args:
        rows: Query, page, hard negatives.
        batch_size: Items encoded at once.
    """
    query, page, *negatives = rows.column_names
    rows = _undecoded(rows)
    queries = dict(enumerate(rows[query]))
    relevant = {number: {(number, page)} for number in queries}
    return InformationRetrievalEvaluator(queries, _Cells(rows, [page, *negatives]), relevant, batch_size=batch_size)


def _undecoded(rows: Dataset) -> Dataset:
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    return rows


class _Cells(Mapping[tuple[int, str], Any]):
    """Cells of some columns by (row, column), read when they are asked for; empty cells are left out."""

    def __init__(self, rows: Dataset, columns: Sequence[str]) -> None:
        self._rows = rows
        table = rows.with_format("arrow")[:]  # a view: no image is read to see which cells are empty
        self._keys = [
            (row, column)
            for column in columns
            for row, empty in enumerate(table.column(column).is_null().to_pylist())
            if not empty
        ]

    def __getitem__(self, key: tuple[int, str]) -> Any:
        return self._rows[key[0]][key[1]]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
