"""`omnitune finetune`: the whole way from a folder to a report."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnitune.cli import console

if TYPE_CHECKING:
    from omnitune.documents.recipe import Recipe

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A directory, a Hugging Face repository, or 'embedded'; by default what fits this machine.",
        metavar="ID",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="A YAML file, or a recipe that comes with omnitune: demo, vdr-lora, vdr-qwen3vl-2b."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Where everything goes; the same folder resumes.")]


def finetune(
    folder: Annotated[Path, typer.Argument(help="Folder of PDF files and images.")],
    out: OutOption,
    model: ModelOption = None,
    recipe: RecipeOption = None,
) -> None:
    """Finetune a retriever on a folder of documents and report how much better it got.

    Stopped runs go on where they were: give the same command again.
    """
    run(folder, out, model, recipe, command=_command(folder, out, model, recipe))


def run(folder: Path, out: Path, model: str | None, recipe: "str | Recipe | None", *, command: str) -> None:
    """Run the pipeline and print what came out."""
    from omnitune.cli.indexes import index_outcome
    from omnitune.documents import pipeline

    console.only_our_bars()
    outcome = pipeline.finetune(folder, out, model=model, recipe=recipe, command=command, say=console.say)
    headline = outcome.report.headline
    console.out.print()
    console.say(
        f"{outcome.report.metric} {headline.base.value:.3f} -> {headline.finetuned.value:.3f} "
        f"({headline.difference.value:+.3f}, {100 * outcome.report.confidence:.0f}% interval "
        f"{headline.difference.low:+.3f} to {headline.difference.high:+.3f}): {headline.verdict}"
    )
    console.places("Results", {"report": outcome.html, "numbers": outcome.json, "model": outcome.model,
                               "dataset": outcome.dataset})  # fmt: skip
    index_outcome(outcome)
    console.say(f'\nTry it: omnitune search {outcome.model} {outcome.dataset} "what you look for" --html hits.html')


def _command(folder: Path, out: Path, model: str | None, recipe: str | None) -> str:
    words = ["omnitune", "finetune", str(folder), "--out", str(out)]
    for flag, value in (("--model", model), ("--recipe", recipe)):
        words += [flag, value] if value is not None else []
    return shlex.join(words)
