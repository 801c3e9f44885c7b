"""Output of the command line: plain lines on standard output, progress bars and errors on standard error.

All text goes through `printable`, because names of files and messages of other programs may hold escape characters.
"""

import errno
import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from omnitune import runtime
from omnitune.errors import ResourceError
from omnitune.io import printable
from omnitune.strict_json import json_text

# A file or a pipe has no width, and rich takes 80 columns, in which cells of a table break over four lines.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
err = Console(stderr=True, highlight=False, soft_wrap=True)


_last: list[Any] = ["", 0.0, 0.0]
"""The last line that said what is done, when it was said, and when anything was said."""


def say(line: str = "") -> None:
    """Print one line; its content is text, never markup."""
    _last[:] = [line, time.monotonic(), time.monotonic()]
    _line(line)


def _line(line: str) -> None:
    with _writing():
        out.print(Text(printable(line, lines=False)))


def note(line: str) -> None:
    """Print a remark on standard error, where it is no part of the results."""
    err.print(Text(printable(line, lines=False), style="dim"))


def error(message: str) -> None:
    """Print one red sentence."""
    err.print(Text(printable(message), style="bold red"))


def places(title: str, rows: Mapping[str, Path | str]) -> None:
    """Print where the results are."""
    with _writing():
        out.print()
        out.print(f"[bold]{escape(title)}[/bold]")
        width = max(len(name) for name in rows)
        for name, where in rows.items():
            out.print(Text(f"  {name:<{width}}  {printable(str(where), lines=False)}"))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table: the first column to the left, the others to the right."""
    shown = Table(title=escape(printable(title, lines=False)) or None, title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        # Numbers stay whole in a narrow terminal: names give way.
        short = number > 0 and all(len(line) < 16 for row in rows for line in row[number].splitlines())
        shown.add_column(escape(heading), justify="left" if number == 0 else "right", overflow="fold", no_wrap=short)
    for row in rows:
        shown.add_row(*(escape(printable(cell)) for cell in row))
    with _writing():
        out.print(shown)


def hits(query: str, found: Sequence[tuple[str, str, str, Sequence[str]]], wanted: set[str]) -> None:
    """Print what answers a query, best first: where it is, its score, an excerpt, and lines about it.

    Args:
        query: Shown first, in bold.
        found: Place, score, excerpt and further lines of each.
        wanted: Words to print in bold in the excerpts, in lower case.
    """
    with _writing():
        out.print(Text(printable(query, lines=False), style="bold"))
        if not found:
            out.print("  nothing found")
        for rank, (place, score, excerpt, lines) in enumerate(found, start=1):
            out.print(Text.assemble(f"{rank:>3}  ", (printable(place, lines=False), "cyan"), f"  {score}"))
            shown = Text(printable(excerpt, lines=False))
            shown.highlight_regex(r"(?i)\b(" + "|".join(map(re.escape, sorted(wanted))) + r")\b", "bold")
            shown.pad_left(5)
            out.print(shown)
            for line in lines:
                out.print(Text("     " + printable(line, lines=False), style="dim"))


@contextmanager
def results_apart(wanted: bool) -> Iterator[None]:
    """Print lines for people on standard error for a block, so that only `result` writes on standard output."""
    before = out.stderr
    out.stderr = wanted or before
    try:
        yield
    finally:
        out.stderr = before


def result(value: Mapping[str, Any]) -> None:
    """Print a line of JSON on standard output.

    Raises:
        InputError: A number is not finite.
    """
    line = json_text(value, "standard output")
    with _writing():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    """Turn standard output that takes no more into one sentence; a reader that has gone (`| head`) ends in silence.

    Raises:
        ResourceError: Nothing can be written, as to a full disk.
    """
    try:
        yield
    except OSError as failure:
        # What is still in the buffer would fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if failure.errno == errno.EPIPE:
            raise SystemExit(128 + 13) from failure
        raise ResourceError(
            f"standard output: expected a place that can be written to, got: {failure.strerror}; send it elsewhere"
        ) from failure


def expect_documents(folder: Path) -> None:
    """Say that a folder has no documents before torch is imported, which takes seconds.

    Raises:
        DatasetError: It is not there, or nothing in it is read.
    """
    from omnitune.documents.folder import has_documents, list_folder

    if not has_documents(folder):
        list_folder(folder)


def only_our_bars(*, with_datasets: bool = True) -> None:
    """Turn off bars and remarks of transformers and datasets; commands call it, because it imports both.

    A download, which can take minutes, keeps its bar in a terminal.

    Args:
        with_datasets: False for a command that needs no datasets: its import, with that of pandas, takes 0.6 s.
    """
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]  # public in its documents
    from transformers.utils import logging as transformers_logging

    if with_datasets:
        import datasets

        datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()  # and, with its own, those of the hub
    if sys.stderr.isatty():
        with warnings.catch_warnings():  # of a bar that the user has turned off by HF_HUB_DISABLE_PROGRESS_BARS
            warnings.simplefilter("ignore")
            enable_progress_bars()
    if not logging.getLogger("omnitune").isEnabledFor(logging.DEBUG):
        transformers_logging.set_verbosity_error()  # it sets its level when it is imported


class _Printable(logging.Formatter):
    """Formats a record as its message, without escape characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        return printable(super().format(record))


class _Lines(logging.Handler):
    """Says what would be a progress bar in a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        _last[2] = time.monotonic()
        _line(record.getMessage())


@contextmanager
def line_a_minute(task: str) -> Iterator[None]:
    """Have no minute of a block without a line, whatever it does: a log that stands still looks like a run that hangs.

    A bar in a terminal is enough. Where lines take a bar's place, its count is said; without any bar the last line
    again, with the time since it was said.

    Args:
        task: What is done, until the block has said a line of its own.
    """
    ended = threading.Event()
    _last[:] = [task, time.monotonic(), time.monotonic()]

    def watch() -> None:
        while not ended.wait(runtime.LINE_SECONDS / 20):
            bar = runtime.shown_bar()
            if bar is not None:
                if hasattr(bar, "say_if_due"):
                    bar.say_if_due()
                continue
            now = time.monotonic()
            line, since, said = _last
            if now - said >= runtime.LINE_SECONDS:
                _last[2] = now
                with suppress(OSError):  # which the next line meets, in the thread that can end the command
                    out.print(Text(printable(f"Still at work, {runtime.about(now - since)} after: {line.strip()}")))

    if runtime.rank() != 0:
        yield
        return
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def quiet(*, debug: bool) -> None:
    """Let our own log through and keep other libraries' remarks out of the way of the progress bars."""
    handler = RichHandler(console=err, show_time=False, show_path=debug)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    progress = logging.getLogger("omnitune.progress")
    progress.setLevel(logging.INFO)
    progress.propagate = False
    progress.handlers = [_Lines()]
    if debug:
        logging.getLogger("omnitune").setLevel(logging.DEBUG)
        return
    for name in ("transformers", "datasets", "torch", "huggingface_hub", "PIL", "pypdfium2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
