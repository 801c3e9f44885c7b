"""`omnitune search`: the top pages, or segments of recordings or clips, for a query."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune.cli import console


def search(
    model: Annotated[str, typer.Argument(help="Model directory, Hugging Face repository, or 'embedded'.")],
    dataset: Annotated[Path, typer.Argument(help="Folder that `omnitune prepare` made.")],
    query: Annotated[str, typer.Argument(help="What to look for.")],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Pages or segments to show.")] = 5,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a sheet with the page images here.")] = None,
) -> None:
    """Find the pages or segments of a dataset that answer a query; the first search indexes them."""
    from omnitune.cli.indexes import entries_of, place_of
    from omnitune.documents.dataset import load
    from omnitune.finetune.choose import load_model
    from omnitune.io import writable_folder
    from omnitune.retrieval.contact_sheet import write_contact_sheet
    from omnitune.search import build_index, is_index, open_index

    console.only_our_bars()
    pages = load(dataset)
    words = pages.kind.words
    if html is not None:
        writable_folder(html.parent)
    place, key = place_of(model, pages)
    writable_folder(place.parent)
    encoder = load_model({"model_name_or_path": model}, pages.kind)
    if is_index(place, key):
        index = open_index(place)
    else:
        console.say(f"Indexing {len(pages.pages):,} {words.page}s, once for this model and dataset")
        index = build_index(encoder, pages.pages, entries_of(pages), place, key=key)
    found = index.search(encoder, [query], top_k)[0]
    rows = [
        [str(hit.entry["document"]), str(hit.entry.get("times") or hit.entry["page"]), f"{hit.score:.3f}"]
        for hit in found
    ]
    console.table([words.document, words.page, "score"], rows, title=query)
    if html is not None:
        images = [pages.pictures[hit.row] for hit in found]
        write_contact_sheet(html, query=query, model=model, found=found, images=images, words=words)
        console.places("Results", {"sheet": html})
