"""`omnitune index`: more documents into a retriever, and a retriever into a database."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune import places
from omnitune.cli import console
from omnitune.cli.options import one_of


def index(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a retriever.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of documents to add.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Windows encoded at once.")] = 32,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            help="Database to write the vectors to.",
            metavar="lancedb|qdrant",
            callback=one_of("lancedb", "qdrant"),
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder of the LanceDB database; by default RUN/lancedb.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Address of the Qdrant server.")] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", help="Key of the Qdrant server.")] = None,
    ann: Annotated[
        str | None, typer.Option("--ann", help="LanceDB: index for approximate search, such as IVF_PQ; none is exact.")
    ] = None,
) -> None:
    """Add documents to a retriever: read, encode and index them; pages that are there unchanged cost nothing.

    With --store, write all its vectors to a database, and measure that against the retriever.
    """
    from omnitune.errors import InputError

    place = places.retriever_folder(run)
    if place is None:
        raise InputError(f"RUN: expected a folder with a retriever, got {run}; `omnitune finetune` makes one")
    if folder is None and store is None:
        raise InputError("FOLDER: expected a folder of documents to add, or --store, got neither")
    if folder is not None:
        console.expect_documents(folder)
    from omnitune.cli.stores import judge_store
    from omnitune.retrieval.retriever import Retriever
    from omnitune.retrieval.stores import LanceStore, open_store, vector_stages

    console.only_our_bars()
    retriever = Retriever.open(place)
    if folder is not None:
        added = retriever.add(folder, batch_size=batch_size)
        console.say(f"{added:,} pages were new or changed; {len(retriever):,} are in the index")
    if store is None:
        console.places("Results", {"retriever": place})
        return
    if store == "qdrant" and url is None:
        raise InputError("--url: expected the address of a Qdrant server, such as http://127.0.0.1:6333, got none")
    target = str(url) if store == "qdrant" else str(to or run / "lancedb")
    opened = open_store(store, target, api_key)
    console.say(f"{opened.write(retriever):,} pages are in {target}")
    if ann is not None:
        if not isinstance(opened, LanceStore):
            raise InputError("--ann: expected none, because Qdrant makes its index by itself")
        for stage in vector_stages(retriever):
            opened.make_index(stage, ann)
    judge_store(retriever, place, opened, target, ann=ann)
