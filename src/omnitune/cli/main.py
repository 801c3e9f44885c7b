"""`omnitune`: from a folder of documents to a better retriever.

Nothing heavy is imported until a command runs, so `omnitune --help` is immediate.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from omnitune import __version__
from omnitune.cli import console
from omnitune.cli.demo import demo
from omnitune.cli.distill import distill
from omnitune.cli.encode import encode
from omnitune.cli.evaluate import evaluate
from omnitune.cli.finetune import finetune
from omnitune.cli.generate_queries import generate_queries
from omnitune.cli.index import index
from omnitune.cli.prepare import prepare
from omnitune.cli.search import search
from omnitune.cli.train import train
from omnitune.errors import OmnituneError

_INTERRUPTED = 130


class Commands(TyperGroup):
    """The commands; turns errors raised on purpose into one red sentence."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            typer.Exit: It failed (1) or was stopped by the user (130).
        """
        debug = bool(ctx.params.get("debug"))
        console.quiet(debug=debug)
        try:
            return super().invoke(ctx)
        except OmnituneError as error:
            if debug:
                raise
            console.error(str(error))
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            console.error("Stopped. The same command goes on from here.")
            raise typer.Exit(_INTERRUPTED) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="From a folder of documents to a measurably better retriever.",
)


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"omnitune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and all log lines.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of all commands."""
    del debug, version  # read by Commands.invoke and by the callback


for command in (finetune, distill, demo, prepare, generate_queries, train, evaluate, encode, index, search):
    app.command()(command)


def main() -> None:
    """Entry point of the `omnitune` script."""
    app()
