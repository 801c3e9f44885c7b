"""`omnitune train`: finetune on a prepared dataset, or on the one a recipe names."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune import places
from omnitune.cli import console
from omnitune.cli.finetune import AllowOption, EpochsOption, ModelOption, OutOption, RecipeOption
from omnitune.errors import InputError


def train(
    out: OutOption,
    dataset: Annotated[
        Path | None, typer.Argument(help="Folder that `omnitune prepare` made; without it, the recipe's dataset.")
    ] = None,
    model: ModelOption = None,
    recipe: RecipeOption = None,
    epochs: EpochsOption = None,
    allow: AllowOption = None,
) -> None:
    """Finetune a model on a prepared dataset, resuming from its last checkpoint."""
    if dataset is not None:
        places.dataset_folder(dataset)
    elif recipe is None:
        raise InputError(
            "DATASET: expected a folder that `omnitune prepare` made, or --recipe with a dataset, got neither"
        )
    if recipe is not None:
        places.recipe_file(recipe)
    if model is not None:
        places.expect_model(model)
    from omnitune.finetune.fit import train as train_model
    from omnitune.io import read_json

    console.only_our_bars()
    place = train_model(dataset, out, model=model, recipe=recipe, epochs=epochs, allow=allow or (), log=console.say)
    results = {"model": place}
    if (out / "evaluation.json").is_file():
        results["numbers"] = out / "evaluation.json"
        found = read_json(out / "evaluation.json")
        rows = [
            [
                str(one["dim"]),
                f"{one['base']:.3f}",
                f"{one['finetuned']:.3f}",
                f"{one['low']:+.3f} to {one['high']:+.3f}",
                f"{one['p_value']:.3f}",
            ]
            for one in found["dimensions"]
        ]
        title = f"{found['metric']}, {found['queries']:,} queries, {found['pages']:,} pages"
        console.table(["dimensions", "base", "finetuned", "difference", "p"], rows, title=title)
    console.places("Results", results)
