"""Compare a database that holds a retriever's vectors with the retriever, and show the result."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import typer

from omnitune.cli import console
from omnitune.io import write_json
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.store_check import measure_store
from omnitune.retrieval.stores import LanceStore, QdrantStore

ASKED = 50
"""Queries by which a store is measured."""


def judge_store(
    retriever: Retriever, place: Path, store: LanceStore | QdrantStore, target: str, *, ann: str | None = None
) -> None:
    """Compare every stage's search in a store with the retriever's; write and show the numbers.

    Args:
        retriever: Whose pages the store holds.
        place: Its folder.
        store: The database.
        target: Its folder or address.
        ann: Kind of its index for approximate search, which is measured as well; None where it has none.

    Raises:
        typer.Exit: An exact search does not give the retriever's pages and scores (1).
    """
    # The first words of pages, spread over the index.
    texts = []
    for part in retriever.segments.parts:
        for row in np.flatnonzero(part.alive).tolist():
            some = str(part.details(row).get("text", "")).split()
            if some:
                texts.append(" ".join(some[:8]))
    step = max(1, len(texts) // ASKED)
    queries = texts[::step][:ASKED]
    measured = {"exact": measure_store(retriever, store, queries)}
    if ann is not None:
        measured[ann] = measure_store(retriever, store, queries, exact=False)
    rows = [
        [
            f"{one.stage}, {kind}",
            f"{one.recall:.3f}",
            f"{one.difference:.1e}",
            f"{one.store_ms:.1f}",
            f"{one.index_ms:.1f}",
        ]
        for kind, found in measured.items()
        for one in found
    ]
    headings = ["stage", "first 10 shared", "scores differ by", f"p50 ms {store.name}", "p50 ms here"]
    console.table(headings, rows, title=f"{len(queries)} queries, {store.name} against the retriever")
    size, here = store.size(), sum(one.stat().st_size for one in (place / "index").iterdir())
    if size is not None:
        console.say(f"{size / 1e6:,.1f} MB in {store.name}, {here / 1e6:,.1f} MB in the retriever's index")
    stages = {
        # Where a store lacks pages, no difference of scores can be said: it is infinite here and null in JSON.
        kind: [
            {**dataclasses.asdict(one), "difference": one.difference if math.isfinite(one.difference) else None}
            for one in found
        ]
        for kind, found in measured.items()
    }
    facts = {"store": store.name, "target": target, "pages": len(retriever), "bytes": size, "index_bytes": here}
    numbers = place / f"{store.name}.json"
    write_json(numbers, {**facts, "stages": stages})
    console.places("Results", {store.name: target, "numbers": numbers})
    if not all(one.exact for one in measured["exact"]):
        console.error("The exact search of the store does not give the retriever's pages and scores.")
        raise typer.Exit(1)
