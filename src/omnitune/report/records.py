"""Logs of numbers: CSV files that grow by a row."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)


def append_csv(path: str | Path, row: Mapping[str, object]) -> None:
    """Add one row to a CSV file, with a header line when the file is new.

    Rows of another shape never mix: when the file's header is not `row`'s, the file is kept under a numbered name
    beside it and a new one is begun.

    Args:
        path: The file; its folder is made if it is not there.
        row: Column name to value, in column order.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = list(row)
    found: list[str] | None = None
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            found = next(csv.reader(file), [])
    if found not in (None, header):
        kept = next(p for n in range(1, 1 << 30) if not (p := path.with_name(f"{path.stem}.{n}{path.suffix}")).exists())
        path.rename(kept)
        logger.warning("%s had other columns; its rows are kept in %s", path, kept.name)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(header)
        writer.writerow(row.values())
