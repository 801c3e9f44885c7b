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
RerankerModelOption = Annotated[
    str | None,
    typer.Option(
        "--reranker-model", help="What the reranker starts from; by default what fits this machine.", metavar="ID"
    ),
]
QuestionsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--questions",
        help="Questions people ask (JSON Lines or CSV: question, pages): to training documents they help to choose the "
        "retriever, to held-out documents they test it.",
        metavar="FILE",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="Where everything goes; the same folder resumes.")]


def finetune(
    folder: Annotated[Path, typer.Argument(help="Folder of PDF files and images, of recordings, or of clips.")],
    out: OutOption,
    model: ModelOption = None,
    recipe: RecipeOption = None,
    negatives: Annotated[
        int | None,
        typer.Option("--negatives", min=0, help="Hard negatives a query, 0 for none; by default the recipe's."),
    ] = None,
    queries: QueriesOption = None,
    query_model: QueryModelOption = None,
    reranker: Annotated[
        bool, typer.Option("--reranker", help="Also train a reranker, and measure it behind the retriever.")
    ] = False,
    reranker_model: RerankerModelOption = None,
    questions: QuestionsOption = None,
) -> None:
    """Make a retriever of a folder of documents, recordings or clips and report how much better it finds them.

    A model is finetuned; then lexical search, dense search, late interaction and their fusions are measured on
    validation queries, and the best within the recipe's budgets becomes RUN/retriever: `omnitune search RUN "..."`.

    Stopped runs go on where they were: give the same command again.
    """
    options = {
        "model": model,
        "recipe": recipe,
        "negatives": negatives,
        "queries": queries,
        "query_model": query_model,
        "reranker": reranker or None,
        "reranker_model": reranker_model,
        "questions": questions,
    }
    run(folder, out, command=command_of("finetune", folder, out, options), **options)


def run(folder: Path, out: Path, *, command: str, **options: Any) -> None:
    """Run the pipeline and print what came out; `options` are those of `documents.pipeline.finetune`."""
    from omnitune.cli.indexes import index_outcome
    from omnitune.finetune import run as pipeline

    console.only_our_bars()
    given = {name: value for name, value in options.items() if value is not None}
    outcome = pipeline.finetune(folder, out, **given, command=command, log=console.say)
    headline = outcome.report.headline
    console.out.print()
    console.say(
        f"{outcome.report.metric} {headline.base.value:.3f} -> {headline.finetuned.value:.3f} "
        f"({headline.difference.value:+.3f}, {100 * outcome.report.confidence:.0f}% interval "
        f"{headline.difference.low:+.3f} to {headline.difference.high:+.3f}): {headline.verdict}"
    )
    for one in outcome.report.further:
        console.say(
            f"{one.label}: {one.base.value:.3f} -> {one.finetuned.value:.3f} ({one.difference.value:+.3f}, "
            f"{one.difference.low:+.3f} to {one.difference.high:+.3f}): {one.verdict}"
        )
    ladder = outcome.report.ladder
    if ladder is not None:
        shown = [
            [
                f"{one.name} (chosen)" if one.chosen else one.name,
                _spread(one.titles.ndcg),
                "" if one.titles.difference is None else f"{one.titles.difference.value:+.3f}",
                "" if one.questions is None else _spread(one.questions.ndcg),
                f"{one.bytes_per_page:,}",
                "" if one.milliseconds is None else f"{one.milliseconds:.0f}",
            ]
            for one in ladder.rungs
        ]
        heads = [
            "retriever",
            f"{outcome.report.metric} on titles",
            "against lexical",
            "on questions",
            "bytes",
            "CPU ms",
        ]
        console.table(heads, shown, title="On the held-out documents")
        console.say(f"{ladder.name}: {ladder.why}")
    console.places("Results", {"report": outcome.html, "numbers": outcome.json, "model": outcome.model,
                               "dataset": outcome.dataset,
                               **({} if outcome.retriever is None else {"retriever": outcome.retriever})})  # fmt: skip
    index_outcome(outcome)
    where = f"{outcome.model} {outcome.dataset}" if outcome.retriever is None else f"{out}"
    console.say(f'\nTry it: omnitune search {where} "what you look for" --html hits.html')


def _spread(found: Any) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def command_of(name: str, folder: Path, out: Path, options: Mapping[str, Any]) -> str:
    """The words of a command, as a shell takes them."""
    words = ["omnitune", name, str(folder), "--out", str(out)]
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        values = value if isinstance(value, list) else [value]
        words += [word for one in values if one is not None for word in ([flag] if one is True else [flag, str(one)])]
    return shlex.join(words)
