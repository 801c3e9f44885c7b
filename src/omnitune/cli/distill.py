"""`omnitune distill`: a reranker's judgement put back into the retriever."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune.cli.finetune import ModelOption, OutOption, RecipeOption, RerankerModelOption, command_of, run


def distill(
    folder: Annotated[Path, typer.Argument(help="Folder of PDF files and images, of recordings, or of clips.")],
    out: OutOption,
    model: ModelOption = None,
    recipe: RecipeOption = None,
    reranker_model: RerankerModelOption = None,
    loss: Annotated[
        str | None,
        typer.Option("--loss", help="margin_mse or kl; by default the recipe's.", metavar="LOSS"),
    ] = None,
) -> None:
    """Train the finetuned retriever on a reranker's scores, and report what each step gained.

    With the folder and the options of `omnitune finetune --reranker`, it goes on from that run; without such a run, it
    does all of it.
    """
    options = {"model": model, "recipe": recipe, "reranker_model": reranker_model}
    command = command_of("distill", folder, out, {**options, "loss": loss})
    run(folder, out, command=command, distill=True, distill_loss=loss, **options)
