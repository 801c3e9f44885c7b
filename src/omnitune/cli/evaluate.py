"""`omnitune evaluate`: how well a model finds the held-out pages of a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune.cli import console


def evaluate(
    model: Annotated[str, typer.Argument(help="Model directory, Hugging Face repository, or 'embedded'.")],
    dataset: Annotated[Path, typer.Argument(help="Folder that `omnitune prepare` made.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file of the results.")] = Path("evaluation.json"),
    batch_size: Annotated[int, typer.Option("--batch-size", help="Items encoded at once.")] = 32,
) -> None:
    """Measure a model on the held-out queries of a dataset, at every useful dimension."""
    from omnitune.finetune.measure import evaluate as evaluate_model

    console.only_our_bars()
    found = evaluate_model(model, dataset, out, batch_size=batch_size, log=console.say)
    names = list(found["results"][0]["metrics"])
    rows = [
        [
            f"{one['dim']} dimensions, {one['pages']:,} pages {one['searched']}",
            *(f"{one['metrics'][n]:.3f}" for n in names),
        ]
        for one in found["results"]
    ]
    console.table(["searched", *names], rows, title=f"{found['model']}: {found['queries']:,} queries")
    console.places("Results", {"numbers": out})
