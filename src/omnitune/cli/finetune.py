"""`omnitune finetune`: the whole way from a folder to a report."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from omnitune import places
from omnitune.cli import console
from omnitune.cli.options import one_of

DOCUMENTS, QUERIES, TRAINING, RERANKER = "Documents", "Queries and questions", "Training", "Reranker"
"""Groups of options in the help."""

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
        help="Training queries: headings of the documents (extractive), or questions of a model behind an API "
        "(OPENAI_BASE_URL, OPENAI_API_KEY) or on this machine; by default the recipe's.",
        metavar="extractive|endpoint|local",
        callback=one_of("extractive", "endpoint", "local"),
        rich_help_panel=QUERIES,
    ),
]
QueryModelOption = Annotated[
    str | None,
    typer.Option(
        "--query-model", help="The vision-language model that writes them.", metavar="ID", rich_help_panel=QUERIES
    ),
]
RerankerModelOption = Annotated[
    str | None,
    typer.Option(
        "--reranker-model",
        help="What the reranker starts from: a directory, a Hugging Face repository, or 'embedded'; by default what "
        "fits this machine.",
        metavar="ID",
        rich_help_panel=RERANKER,
    ),
]
KindOption = Annotated[
    str | None,
    typer.Option(
        "--kind",
        help="Files that count in a folder of several kinds.",
        metavar="pages|recordings|clips",
        callback=one_of("pages", "recordings", "clips"),
        rich_help_panel=DOCUMENTS,
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Test on documents that training never saw, or on other pages of the same ones; by default on documents.",
        metavar="documents|pages",
        callback=one_of("documents", "pages"),
        rich_help_panel=DOCUMENTS,
    ),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        "--language",
        help="Language of scanned pages, as its model in Tesseract is called: eng, deu, eng+fra; English by default.",
        metavar="CODE",
        rich_help_panel=DOCUMENTS,
    ),
]
EpochsOption = Annotated[
    float | None,
    typer.Option(
        "--epochs",
        min=0.0,
        help="Passes of training over the queries; by default the recipe's.",
        rich_help_panel=TRAINING,
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="A setting that the recipe may turn on though it reaches outside this run: trust_remote_code, "
        "push_to_hub. Can be given twice.",
        metavar="SETTING",
    ),
]
NegativesOption = Annotated[
    int | None,
    typer.Option(
        "--negatives",
        min=0,
        help="Hard negatives a query, 0 for none; by default the recipe's.",
        rich_help_panel=TRAINING,
    ),
]
QuestionsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--questions",
        help="Questions people ask (JSON Lines or CSV: question, pages): to training documents they help to choose the "
        "retriever, to held-out documents they test it. Can be given several times.",
        metavar="FILE",
        rich_help_panel=QUERIES,
    ),
]
FeedbackOption = Annotated[
    Path | None,
    typer.Option(
        "--feedback",
        help="Votes that `omnitune serve` wrote (RUN/feedback.jsonl): part of them train, part test what it gained.",
        metavar="FILE",
        rich_help_panel=QUERIES,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", help="Where everything goes; the same folder resumes.")]


def finetune(
    folder: Annotated[Path, typer.Argument(help="Folder of documents (PDF, Word, ..., images), recordings or clips.")],
    out: OutOption,
    model: ModelOption = None,
    recipe: RecipeOption = None,
    kind: KindOption = None,
    split: SplitOption = None,
    language: LanguageOption = None,
    epochs: EpochsOption = None,
    negatives: NegativesOption = None,
    queries: QueriesOption = None,
    query_model: QueryModelOption = None,
    reranker: Annotated[
        bool,
        typer.Option(
            "--reranker/--no-reranker",
            help="Also train a reranker, and measure it behind the retriever.",
            rich_help_panel=RERANKER,
        ),
    ] = False,
    reranker_model: RerankerModelOption = None,
    allow: AllowOption = None,
    questions: QuestionsOption = None,
    feedback: FeedbackOption = None,
) -> None:
    """Make a retriever of a folder of documents, recordings or clips and report how much better it finds them.

    A model is finetuned; then lexical search, dense search, late interaction and their fusions are measured on
    validation queries, and the best within the recipe's budgets becomes RUN/retriever: `omnitune search RUN "..."`.

    Stopped runs go on where they were: give the same command again.

    Examples: `omnitune finetune manuals --out run`, and of German scans with a reranker behind the retriever:
    `omnitune finetune scans --out run --language deu --reranker`.
    """
    options = {
        "model": model,
        "recipe": recipe,
        "kind": kind,
        "split": split,
        "language": language,
        "epochs": epochs,
        "negatives": negatives,
        "queries": queries,
        "query_model": query_model,
        "reranker": reranker or None,
        "reranker_model": reranker_model,
        "allow": allow,
        "questions": questions,
        "feedback": feedback,
    }
    run(folder, out, command=command_of("finetune", folder, out, options), **options)


def run(folder: Path, out: Path, *, command: str, **options: Any) -> None:
    """Run the pipeline and print what came out; `options` are those of `omnitune.finetune.finetune`."""
    console.expect_documents(folder)
    places.check_outside(folder, out)
    if isinstance(options.get("recipe"), str):  # the demo brings one that is read
        places.recipe_file(options["recipe"])
    # An endpoint names its models in its own way.
    local = ["query_model"] if options.get("queries") == "local" else []
    for name in ("model", "reranker_model", *local):
        if options.get(name):
            places.expect_model(options[name])
    from omnitune.cli.indexes import index_outcome
    from omnitune.finetune import run as pipeline

    console.only_our_bars()
    given = {name: value for name, value in options.items() if value is not None}
    outcome = pipeline.finetune(folder, out, **given, command=command, log=console.say)
    headline, ladder = outcome.report.headline, outcome.report.ladder
    console.say()
    console.say(outcome.report.sentence)
    console.say(
        f"Finetuning the model alone: {outcome.report.metric} {headline.base.value:.3f} -> "
        f"{headline.finetuned.value:.3f} ({headline.difference.value:+.3f}, {100 * outcome.report.confidence:.0f}% "
        f"interval {headline.difference.low:+.3f} to {headline.difference.high:+.3f}): {headline.verdict}"
    )
    votes = [] if outcome.report.votes is None else [outcome.report.votes]
    for one in [*outcome.report.further, *votes]:
        console.say(
            f"{one.label}: {one.base.value:.3f} -> {one.finetuned.value:.3f} ({one.difference.value:+.3f}, "
            f"{one.difference.low:+.3f} to {one.difference.high:+.3f}): {one.verdict}"
        )
    if ladder is not None:
        shown = [
            [
                f"{one.name} (chosen)" if one.chosen else one.name,
                _spread(one.titles.ndcg),
                "" if one.titles.difference is None else f"{one.titles.difference.value:+.3f}",
                *([] if one.questions is None else [_spread(one.questions.ndcg)]),
                f"{one.bytes_per_page:,}",
                "" if one.milliseconds is None else f"{one.milliseconds:.0f}",
            ]
            for one in ladder.rungs
        ]
        asked = ["questions"] if ladder.questions else []
        heads = ["retriever", "titles", "to lexical", *asked, "bytes", "CPU ms"]
        console.table(heads, shown, title=f"{outcome.report.metric} on the held-out documents")
        compared = [(f"{one.label}, to the chosen retriever", one) for one in ladder.dense]
        compared += [(f"{one.label}, text layers to the same pages as scans", one) for one in ladder.scans]
        for what, one in compared:
            console.say(f"{what}: {one.base.value:.3f} -> {one.finetuned.value:.3f} "
                        f"({one.difference.low:+.3f} to {one.difference.high:+.3f})")  # fmt: skip
        if ladder.wall is not None:
            console.say(f"One query takes {ladder.wall[0]:.0f} ms, 95% of them at most {ladder.wall[1]:.0f} ms")
        console.say(f"{ladder.name}: {ladder.why}")
    console.places("Results", {"report": outcome.html, "numbers": outcome.json, "model": outcome.model,
                               "dataset": outcome.dataset,
                               **({} if outcome.retriever is None else {"retriever": outcome.retriever})})  # fmt: skip
    index_outcome(outcome)
    where = f"{outcome.model} {outcome.dataset}" if outcome.retriever is None else f"{out}"
    console.say()
    console.say(f'Try it: omnitune search {where} "what you look for" --html hits.html')


def _spread(found: Any) -> str:
    return f"{found.value:.3f}\n{found.low:.3f} to {found.high:.3f}"


def command_of(name: str, folder: Path, out: Path, options: Mapping[str, Any]) -> str:
    """The words of a command, as a shell takes them."""
    words = ["omnitune", name, str(folder), "--out", str(out)]
    for option, value in options.items():
        flag = f"--{option.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [flag] if one is True else [flag, str(one)]
    return shlex.join(words)
