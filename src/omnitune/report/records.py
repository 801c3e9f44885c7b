"""Records of a run in a CSV file that grows by a row at a time."""

import csv
import logging
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from omnitune.io import full_disk_named

logger = logging.getLogger(__name__)


def append_csv(path: str | Path, row: Mapping[str, object]) -> None:
    """Add one row to a CSV file, with a header line when the file is new.

    Rows of another shape never mix: when the file's header is not `row`'s, the file is kept under a numbered name
    beside it and a new one is begun.

    Args:
        path: The file; its folder is made if it is not there.
        row: Column name to value, in column order.

    Raises:
        ResourceError: The disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = list(row)
    content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if content and next(csv.reader(StringIO(content))) != header:
        kept = next(p for n in range(1, 1 << 30) if not (p := path.with_name(f"{path.stem}.{n}{path.suffix}")).exists())
        path.rename(kept)
        logger.warning("%s had other columns; its rows are kept in %s", path, kept.name)
        content = ""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not content:
        writer.writerow(header)
    elif not content.endswith("\n"):  # a row that a kill cut off stays a row of its own
        text.write("\n")
    writer.writerow(row.values())
    with full_disk_named(path), path.open("a", newline="", encoding="utf-8") as file:
        file.write(text.getvalue())
