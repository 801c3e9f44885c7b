"""`omnitune train`: finetune on a prepared dataset, or on the one a recipe names."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune.cli import console
from omnitune.cli.finetune import ModelOption, OutOption, RecipeOption


def train(
    out: OutOption,
    dataset: Annotated[
        Path | None, typer.Argument(help="Folder that `omnitune prepare` made; without it, the recipe's dataset.")
    ] = None,
    model: ModelOption = None,
    recipe: RecipeOption = None,
) -> None:
    """Finetune a model on a prepared dataset, resuming from its last checkpoint."""
    from omnitune.documents.train import train as train_model

    console.only_our_bars()
    place = train_model(dataset, out, model=model, recipe=recipe, say=console.say)
    console.places("Results", {"model": place})
