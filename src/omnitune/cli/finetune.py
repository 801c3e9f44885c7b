"""`omnitune finetune`: the whole way from a folder to a report."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from omnitune.cli import console

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
QueriesOption = Annotated[
    str | None,
    typer.Option(
        "--queries",
        help="Who writes training queries: extractive, endpoint (OPENAI_BASE_URL, OPENAI_API_KEY) or local.",
        metavar="WRITER",
    ),
]
QueryModelOption = Annotated[
    str | None, typer.Option("--query-model", help="The vision-language model that writes them.", metavar="ID")
]
OutOption = Annotated[Path, typer.Option("--out", help="Where everything goes; the same folder resumes.")]


def finetune(
    folder: Annotated[Path, typer.Argument(help="Folder of PDF files and images.")],
    out: OutOption,
    model: ModelOption = None,
    recipe: RecipeOption = None,
    negatives: Annotated[
        int | None,
        typer.Option("--negatives", min=0, help="Hard negatives a query, 0 for none; by default the recipe's."),
    ] = None,
    queries: QueriesOption = None,
    query_model: QueryModelOption = None,
) -> None:
    """Finetune a retriever on a folder of documents and report how much better it got.

    Stopped runs go on where they were: give the same command again.
    """
    options = {
        "model": model,
        "recipe": recipe,
        "negatives": negatives,
        "queries": queries,
        "query_model": query_model,
    }
    run(folder, out, **options, command=_command(folder, out, options))


def run(folder: Path, out: Path, *, command: str, **options: Any) -> None:
    """Run the pipeline and print what came out; `options` are those of `documents.pipeline.finetune`."""
    from omnitune.documents import pipeline

    console.only_our_bars()
    outcome = pipeline.finetune(folder, out, **options, command=command, say=console.say)
    headline = outcome.report.headline
    console.out.print()
    console.say(
        f"{outcome.report.metric} {headline.base.value:.3f} -> {headline.finetuned.value:.3f} "
        f"({headline.difference.value:+.3f}, {100 * outcome.report.confidence:.0f}% interval "
        f"{headline.difference.low:+.3f} to {headline.difference.high:+.3f}): {headline.verdict}"
    )
    console.places("Results", {"report": outcome.html, "numbers": outcome.json, "model": outcome.model,
                               "dataset": outcome.dataset})  # fmt: skip


def _command(folder: Path, out: Path, options: Mapping[str, Any]) -> str:
    words = ["omnitune", "finetune", str(folder), "--out", str(out)]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    return shlex.join(words)
