"""`omnitune index`: more documents into a retriever."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune.cli import console


def index(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a retriever.")],
    folder: Annotated[Path, typer.Argument(help="Folder of documents to add.")],
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Windows encoded at once.")] = 32,
) -> None:
    """Add documents to a retriever: read, encode and index them; pages that are there unchanged cost nothing."""
    from omnitune.cli.indexes import retriever_of
    from omnitune.errors import InputError
    from omnitune.retrieval.retriever import Retriever

    console.only_our_bars()
    place = retriever_of(run)
    if place is None:
        raise InputError(f"RUN: expected a folder with a retriever, got {run}; `omnitune finetune` makes one")
    retriever = Retriever.open(place)
    added = retriever.add(folder, batch_size=batch_size)
    console.say(f"{added:,} pages were new or changed; {len(retriever):,} are in the index")
    console.places("Results", {"retriever": place})
