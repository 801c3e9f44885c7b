"""How the command line talks: plain lines on standard output, progress bars and errors on standard error."""

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one line; what it holds is text, never markup."""
    out.print(Text(line))


def error(message: str) -> None:
    """Print one red sentence."""
    err.print(Text(message, style="bold red"))


def places(title: str, rows: Mapping[str, Path | str]) -> None:
    """Print where the results are."""
    out.print()
    out.print(f"[bold]{escape(title)}[/bold]")
    width = max(len(name) for name in rows)
    for name, where in rows.items():
        out.print(Text(f"  {name:<{width}}  {where}"))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table: the first column to the left, the others to the right."""
    shown = Table(title=escape(title) or None, title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        shown.add_column(escape(heading), justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(escape(cell) for cell in row))
    out.print(shown)


def only_our_bars() -> None:
    """Turn off the bars of transformers, which count weights, and of datasets; commands call it, as it imports both."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()

    transformers_logging.disable_progress_bar()


def quiet(*, debug: bool) -> None:
    """Let our own log through and keep other libraries' remarks out of the way of the progress bars."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_time=False, show_path=debug)],
    )
    if debug:
        logging.getLogger("omnitune").setLevel(logging.DEBUG)
        return
    for name in ("transformers", "datasets", "torch", "huggingface_hub", "PIL", "pypdfium2"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
