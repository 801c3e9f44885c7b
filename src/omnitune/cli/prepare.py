"""`omnitune prepare`: a folder of documents as a dataset on disk."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune import places
from omnitune.cli import console
from omnitune.cli.finetune import (
    AllowOption,
    KindOption,
    LanguageOption,
    OutOption,
    QueriesOption,
    QueryModelOption,
    RecipeOption,
    SplitOption,
)


def prepare(
    folder: Annotated[Path, typer.Argument(help="Folder of documents (PDF, Word, ..., images), recordings or clips.")],
    out: OutOption,
    recipe: RecipeOption = None,
    kind: KindOption = None,
    split: SplitOption = None,
    language: LanguageOption = None,
    queries: QueriesOption = None,
    query_model: QueryModelOption = None,
    allow: AllowOption = None,
) -> None:
    """Make a dataset of pages, splits and queries from a folder of documents, recordings or clips."""
    console.expect_documents(folder)
    places.check_outside(folder, out)
    if recipe is not None:
        places.recipe_file(recipe)
    if queries == "local" and query_model is not None:
        places.expect_model(query_model)
    from omnitune.finetune.dataset import prepare as prepare_folder
    from omnitune.finetune.recipe import Recipe, load_recipe

    console.only_our_bars()
    settings = Recipe() if recipe is None else load_recipe(recipe, allow=allow or ())
    settings = settings.changed(queries__writer=queries, queries__model=query_model)
    dataset = prepare_folder(folder, out, recipe=settings, language=language, log=console.say, kind=kind, split=split)
    console.say(dataset.summary())
    for doubt in dataset.doubts():
        console.say(doubt)
    console.places("Results", {"dataset": out})
