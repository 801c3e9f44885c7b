"""`omnitune index`: more documents into a retriever, and a retriever into a database."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnitune.cli import console

if TYPE_CHECKING:
    from omnitune.retrieval.retriever import Retriever

ASKED = 50
"""Queries by which a store is measured."""


def index(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of a retriever.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of documents to add.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Windows encoded at once.")] = 32,
    store: Annotated[str | None, typer.Option("--store", help="Write the vectors to lancedb or qdrant.")] = None,
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
    from omnitune.cli.indexes import retriever_of
    from omnitune.errors import InputError
    from omnitune.retrieval.retriever import Retriever

    console.only_our_bars()
    place = retriever_of(run)
    if place is None:
        raise InputError(f"RUN: expected a folder with a retriever, got {run}; `omnitune finetune` makes one")
    if folder is None and store is None:
        raise InputError("FOLDER: expected a folder of documents to add, or --store, got neither")
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
    write_store(retriever, place, store, target, api_key=api_key, ann=ann)


def write_store(
    retriever: "Retriever", place: Path, store: str, target: str, *, api_key: str | None, ann: str | None
) -> None:
    """Write a retriever's pages to a store, and show how its searches compare.

    Raises:
        typer.Exit: An exact search does not give the retriever's pages and scores (1).
    """
    from omnitune.errors import InputError
    from omnitune.io import listing, write_json
    from omnitune.retrieval.stores import LanceStore, measure_store, open_store, vector_stages

    opened = open_store(store, target, api_key)
    console.say(f"{opened.write(retriever):,} pages are in {target}")
    if ann is not None:
        if not isinstance(opened, LanceStore):
            raise InputError("--ann: expected none, because Qdrant makes its index by itself")
        for stage in vector_stages(retriever):
            opened.make_index(stage, ann)
    queries = _queries(retriever)
    measured = {"exact": measure_store(retriever, opened, queries)}
    if ann is not None:
        measured[ann] = measure_store(retriever, opened, queries, exact=False)
    rows = []
    for kind, found in measured.items():
        rows += [
            [
                f"{one.stage}, {kind}",
                f"{one.recall:.3f}",
                f"{one.difference:.1e}",
                f"{one.store_ms:.1f}",
                f"{one.index_ms:.1f}",
            ]
            for one in found
        ]
    title = f"{len(queries)} queries, {store} against the retriever"
    console.table(["stage", "first 10 shared", "scores differ by", f"p50 ms {store}", "p50 ms here"], rows, title=title)
    size = opened.size()
    here = sum(one[1] for one in listing(place / "index"))
    if size is not None:
        console.say(f"{size / 1e6:,.1f} MB in {store}, {here / 1e6:,.1f} MB in the retriever's index")
    facts = {
        "store": store,
        "target": target,
        "pages": len(retriever),
        "bytes": size,
        "index_bytes": here,
        "stages": {kind: [dataclasses.asdict(one) for one in found] for kind, found in measured.items()},
    }
    write_json(place / f"{store}.json", facts)
    console.places("Results", {store: target, "numbers": place / f"{store}.json"})
    if not all(one.exact for one in measured["exact"]):
        console.error("The exact search of the store does not give the retriever's pages and scores.")
        raise typer.Exit(1)


def _queries(retriever: "Retriever") -> list[str]:
    """Texts to ask for: the first words of pages, spread over the index."""
    import numpy as np

    texts = []
    for part in retriever.segments.parts:
        for row in np.flatnonzero(part.alive).tolist():
            some = str(part.details(row).get("text", "")).split()
            if some:
                texts.append(" ".join(some[:8]))
    step = max(1, len(texts) // ASKED)
    return texts[::step][:ASKED]
