"""`omnitune distill`: a reranker's judgement put back into the retriever."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune.cli.finetune import (
    AllowOption,
    EpochsOption,
    KindOption,
    LanguageOption,
    ModelOption,
    NegativesOption,
    OutOption,
    QueriesOption,
    QueryModelOption,
    RecipeOption,
    RerankerModelOption,
    SplitOption,
    command_of,
    run,
)
from omnitune.cli.options import one_of


def distill(
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
    reranker_model: RerankerModelOption = None,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            help="Loss on the reranker's scores; by default the recipe's.",
            metavar="margin_mse|kl",
            callback=one_of("margin_mse", "kl"),
        ),
    ] = None,
    allow: AllowOption = None,
) -> None:
    """Train the finetuned retriever on a reranker's scores, and report what each step gained.

    With the folder and the options of `omnitune finetune --reranker`, it goes on from that run; without such a run, it
    does all of it.
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
        "reranker_model": reranker_model,
        "allow": allow,
    }
    command = command_of("distill", folder, out, {**options, "loss": loss})
    run(folder, out, command=command, distill=True, distill_loss=loss, **options)
