"""`omnitune`: from a folder of documents to a better retriever.

Nothing heavy is imported until a command runs, so `omnitune --help` is immediate.
"""

import errno
import os
import signal
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from omnitune import __version__
from omnitune.cli import console
from omnitune.cli.demo import demo
from omnitune.cli.distill import distill
from omnitune.cli.encode import encode
from omnitune.cli.evaluate import evaluate
from omnitune.cli.export import check, export
from omnitune.cli.finetune import finetune
from omnitune.cli.generate_queries import generate_queries
from omnitune.cli.index import index
from omnitune.cli.options import Command, with_nouns
from omnitune.cli.prepare import prepare
from omnitune.cli.search import search
from omnitune.cli.serve import serve
from omnitune.cli.train import train
from omnitune.errors import OmnituneError
from omnitune.io import is_full
from omnitune.runtime import is_out_of_memory

_SENTENCE = "Stopped. The same command goes on from here."


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by `kill`, a scheduler or a terminal that was closed."""


def _terminate(number: int, frame: object) -> None:
    del frame
    if os.getpid() != _process:  # a worker that was forked from this process
        os._exit(128 + number)
    signal.signal(number, signal.SIG_IGN)  # `timeout` sends it twice: once is enough to end
    raise Terminated(number)


_process = os.getpid()


class Commands(TyperGroup):
    """The commands; turns errors raised on purpose into one red sentence."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of all commands, with placeholders that a person knows."""
        return with_nouns(super().get_params(ctx), ctx)

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            typer.Exit: It failed (1) or was stopped (128 and the number of the signal: 130 for Ctrl-C).
        """
        global _process
        _process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGHUP"):
                if hasattr(signal, name):  # Windows has one of them
                    signal.signal(getattr(signal, name), _terminate)
        debug = bool(ctx.params.get("debug"))
        console.quiet(debug=debug)
        try:
            return super().invoke(ctx)
        except OmnituneError as error:
            if debug:
                raise
            console.error(str(error))
            raise typer.Exit(1) from error
        except OSError as error:
            if debug or error.errno not in _PLACES:
                raise
            console.error(f"{error.filename or 'writing'}: {error.strerror}")
            raise typer.Exit(1) from error
        except (MemoryError, RuntimeError) as error:
            # A thread needs memory for its stack: where `ulimit -v` leaves none, that is what Python says.
            if debug or not (is_out_of_memory(error) or "can't start new thread" in str(error)):
                raise
            said = (str(error).strip().splitlines() or ["an allocation failed"])[0]
            console.error(
                f"This machine has not enough memory ({said[:200]}). What was made before is kept: end other "
                "programs, take smaller batches or a smaller model, and run the command again."
            )
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            console.error(_SENTENCE)
            number = error.args[0] if isinstance(error, Terminated) else signal.SIGINT
            raise typer.Exit(128 + number) from error


_PLACES = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
)  # fmt: skip
"""What is wrong with a place or the machine, not with the program."""

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"omnitune {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug/--no-debug", help="Show tracebacks and all log lines.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """From a folder of documents to a measurably better retriever.

    First: `omnitune demo`, or `omnitune finetune FOLDER --out RUN`, then `omnitune search RUN "what you look for"`.
    `omnitune COMMAND --help` has the options of a command.
    """
    del debug, version  # read by Commands.invoke and by the callback


for command in (
    finetune,
    distill,
    demo,
    prepare,
    generate_queries,
    train,
    evaluate,
    encode,
    index,
    search,
    serve,
    export,
    check,
):
    app.command(cls=Command)(command)


def main() -> None:
    """Entry point of the `omnitune` script."""
    try:
        app()
    except OmnituneError as error:  # what is printed while options are read: the version
        console.error(str(error))
        raise SystemExit(1) from error
    except OSError as error:  # the help and the usage, which click prints
        if not is_full(error):
            raise
        console.error(f"standard output: {error.strerror}")
        os._exit(1)


if __name__ == "__main__":
    main()
