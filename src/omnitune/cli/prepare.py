"""`omnitune prepare`: a folder of documents as a dataset on disk."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune.cli import console
from omnitune.cli.finetune import OutOption, RecipeOption


def prepare(
    folder: Annotated[Path, typer.Argument(help="Folder of PDF files and images, of recordings, or of clips.")],
    out: OutOption,
    recipe: RecipeOption = None,
) -> None:
    """Make a dataset of pages, splits and queries from a folder of documents, recordings or clips."""
    from omnitune.finetune.dataset import prepare as prepare_folder

    dataset = prepare_folder(folder, out, recipe=recipe, log=console.say)
    console.say(dataset.summary())
    console.places("Results", {"dataset": out})
