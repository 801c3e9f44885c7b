"""`omnitune demo`: the pipeline on the manuals that come with a checkout."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import typer

import omnitune
from omnitune.cli.finetune import run
from omnitune.errors import InputError

HELD_OUT = ["R-data.pdf", "R-lang.pdf", "R-FAQ.pdf"]
"""Documents that the demo asks about: never seen in training, and of the same house as some that are."""

VALIDATION = ["R-intro.pdf"]
"""Document that decides whether what was trained takes the place of what was not."""

QUESTIONS = ["questions.jsonl", "questions-train.jsonl"]
"""Questions that people ask about the held-out documents, and about the others."""


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes; the same folder resumes.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Make a retriever of some manuals and measure it on three that it never saw, on a CPU, in minutes."""
    folder = documents()
    from omnitune.finetune.recipe import load_recipe

    recipe = load_recipe("demo")
    recipe = dataclasses.replace(recipe, prepare={**recipe.prepare, "test": HELD_OUT, "validation": VALIDATION})
    asked = [path for name in QUESTIONS if (path := folder / name).is_file()]
    run(folder, out, recipe=recipe, questions=asked, command=shlex.join(["omnitune", "demo", "--out", str(out)]))


def documents() -> Path:
    """The demo's documents.

    Raises:
        InputError: This is an installed wheel, which does not carry them.
    """
    checkout = Path(omnitune.__file__).parents[2]
    folder = checkout / "examples" / "documents"
    if not folder.is_dir():
        raise InputError(
            f"demo: expected the documents of a source checkout in {str(folder)!r}, found none, because omnitune was "
            "installed without them; run it in a checkout, or on PDFs of your own: "
            "omnitune finetune FOLDER --out DIR --recipe demo"
        )
    return folder
