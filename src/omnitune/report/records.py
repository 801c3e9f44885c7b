"""Numbers and rows on disk: CSV logs that grow, JSON Lines and JSON that appear whole or not at all."""

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omnitune import runtime

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
    if path.is_file() and _header(path) != header:
        kept = next(p for n in range(1, 1 << 30) if not (p := path.with_name(f"{path.stem}.{n}{path.suffix}")).exists())
        path.rename(kept)
        logger.warning("%s had other columns; its rows are kept in %s", path, kept.name)
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(header)
        writer.writerow(row.values())


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line; the file appears when the last row is written.

    Raises:
        ResourceError: The disk is full.
    """
    with runtime.writing(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, one at a time."""
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON; the file appears whole or not at all.

    Raises:
        ResourceError: The disk is full.
    """
    with runtime.writing(Path(path)) as temporary:
        temporary.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
