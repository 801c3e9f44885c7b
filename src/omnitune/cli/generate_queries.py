"""`omnitune generate-queries`: questions about pages, written by a vision-language model."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune import places
from omnitune.cli import console
from omnitune.cli.finetune import AllowOption, QueryModelOption, RecipeOption
from omnitune.cli.options import one_of


def generate_queries(
    dataset: Annotated[Path, typer.Argument(help="Folder that `omnitune prepare` made.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL file: page_id, query, and why it would be dropped.")],
    writer: Annotated[
        str,
        typer.Option(
            "--queries",
            help="A model behind an API (OPENAI_BASE_URL, OPENAI_API_KEY), or on this machine; headings are queries "
            "of `omnitune prepare` without any.",
            metavar="endpoint|local",
            callback=one_of("endpoint", "local"),
        ),
    ] = "endpoint",
    query_model: QueryModelOption = None,
    recipe: RecipeOption = None,
    per_page: Annotated[int | None, typer.Option("--per-page", min=1, help="Most queries of one page.")] = None,
    allow: AllowOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Pages to ask about, to look before you pay.")
    ] = None,
) -> None:
    """Write queries for the training pages of a dataset; answers are kept, so that `finetune` does not pay again."""
    places.dataset_folder(dataset)
    if recipe is not None:
        places.recipe_file(recipe)
    if writer == "local" and query_model is not None:
        places.expect_model(query_model)
    from omnitune.documents.dataset import load
    from omnitune.documents.queries.generate import generate
    from omnitune.finetune.dataset import make_writer
    from omnitune.finetune.recipe import Recipe, load_recipe

    console.only_our_bars()
    settings = Recipe() if recipe is None else load_recipe(recipe, allow=allow or ())
    settings = settings.changed(queries__writer=writer, queries__model=query_model, queries__per_page=per_page)
    asker = make_writer(settings.queries, console.say)
    assert asker is not None, "both words name a writer with a model"
    counts = generate(load(dataset), asker, out, limit=limit)
    kept = counts.pop("", 0)
    dropped = "".join(f"; {count:,} dropped: {reason}" for reason, count in counts.items())
    console.say(f"{kept:,} queries kept{dropped}")
    console.places("Results", {"queries": out})
