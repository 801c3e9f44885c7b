"""`omnitune search`: the top pages, or segments of recordings or clips, for one query or several."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnitune.cli import console

if TYPE_CHECKING:
    from omnitune.documents.dataset import DocumentDataset
    from omnitune.retrieval.base import Found


def search(
    source: Annotated[
        str, typer.Argument(help="Folder of a run or of a retriever; or a model: directory, repository, 'embedded'.")
    ],
    words: Annotated[
        list[str],
        typer.Argument(help="What to look for, one query or several; after a model, its prepared dataset first."),
    ],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Pages or segments to show.")] = 5,
    document: Annotated[
        list[str] | None, typer.Option("--document", help="Only pages of this document; may be given several times.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Show every stage's score and the words that match.")
    ] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a sheet with the page images here.")] = None,
) -> None:
    """Find the pages or segments that answer a query.

    `omnitune search RUN "QUERY" ["QUERY" ...]` asks the retriever of a run. `omnitune search MODEL DATASET "QUERY" ...`
    asks a model about a dataset that `omnitune prepare` made; the first search indexes it.
    """
    from omnitune import places
    from omnitune.errors import InputError
    from omnitune.folders import writable_folder

    if html is not None:
        writable_folder(html.parent)
    place = places.retriever_folder(source)
    if place is not None:
        console.only_our_bars(with_datasets=False)
        _with_retriever(place, words, top_k, document, explain, html)
    elif len(words) < 2:
        made = (
            "" if Path(source).exists() else f", where nothing is; omnitune finetune DOCUMENTS --out {source} makes one"
        )
        raise InputError(
            f"SOURCE: expected a folder with a retriever for one query, got {source}{made}; with a model the order is "
            'omnitune search MODEL DATASET "QUERY"'
        )
    elif document or explain:
        raise InputError(f"--document, --explain: expected a folder with a retriever with them, got {source}")
    else:
        places.expect_model(source)
        places.dataset_folder(words[0])
        console.only_our_bars()
        _with_model(source, Path(words[0]), words[1:], top_k, html)


def _with_retriever(
    place: Path, queries: list[str], top_k: int, document: list[str] | None, explain: bool, html: Path | None
) -> None:
    from omnitune.ops.bm25 import words as words_of
    from omnitune.retrieval.base import Found
    from omnitune.retrieval.hits import check_documents
    from omnitune.retrieval.retriever import Retriever

    retriever = Retriever.open(place)
    if document:
        check_documents(retriever.documents, document, "--document")
    where = {"document": document} if document else None
    for number, (query, hits) in enumerate(
        zip(queries, retriever.search(queries, top_k, where, explain=explain), strict=True)
    ):
        shown = []
        for hit in hits:
            lines = [str(retriever.files.of(hit.entry) or hit.entry.get("path") or "")]  # named, not opened
            if explain:
                lines.append(", ".join(f"{name} {score:z.3f}" for name, score in hit.stages.items()))
                lines.append("matches: " + " ".join(hit.words))
            shown.append((_place(hit.entry), f"{hit.score:z.3f}", hit.snippet(query), [line for line in lines if line]))
        console.hits(query, shown, set(words_of(query)))
        if html is not None:
            found = [Found(rank=hit.rank, score=hit.score, row=0, entry=hit.entry) for hit in hits]
            _sheet(
                _numbered(html, number, len(queries)),
                query,
                str(place),
                found,
                [_image(retriever.files.of(hit.entry)) for hit in hits],
            )


def _with_model(model: str, folder: Path, queries: list[str], top_k: int, html: Path | None) -> None:
    from omnitune.cli.indexes import entries_of, place_of
    from omnitune.documents.dataset import load
    from omnitune.errors import ResourceError
    from omnitune.finetune.choose import load_model
    from omnitune.folders import writable_folder
    from omnitune.ops.bm25 import words as words_of
    from omnitune.retrieval.hits import snippet
    from omnitune.search import build_index, is_index, open_index

    pages: DocumentDataset = load(folder)
    words = pages.kind.words
    place, key = place_of(model, pages)
    encoder = load_model({"model_name_or_path": model}, pages.kind)
    with TemporaryDirectory() as without_cache:
        if is_index(place, key):
            index = open_index(place)
        else:
            console.say(f"Indexing {len(pages.pages):,} {words.page}s, once for this model and dataset")
            try:
                writable_folder(place.parent)
            except ResourceError as error:  # the cache: it is worth waiting again, not failing
                console.say(f"The index is not kept: {error}")
                place = Path(without_cache) / "index"
            index = build_index(encoder, pages.pages, entries_of(pages), place, key=key)
        answers = index.search(encoder, queries, top_k)
    for number, (query, found) in enumerate(zip(queries, answers, strict=True)):
        wanted = set(words_of(query))
        shown = []
        for hit in found:
            path = str(pages.pages[hit.row].get("path") or "")
            excerpt = snippet(pages.page_texts[hit.row], wanted)
            shown.append((_place(hit.entry), f"{hit.score:z.3f}", excerpt, [path] if path else []))
        console.hits(query, shown, wanted)
        if html is not None:
            images = [pages.pictures[hit.row] for hit in found]
            _sheet(_numbered(html, number, len(queries)), query, model, found, images, words)


def _place(entry: Any) -> str:
    """Name a page by its document, number and, where that differs, what is printed on it; a segment by its times."""
    times, number, label = entry.get("times"), entry.get("page"), str(entry.get("label") or "")
    if times or number is None:
        return f"{entry['document']} {times or ''}".strip()
    printed = f" (printed {label})" if label and label != str(number) else ""
    return f"{entry['document']} page {number}{printed}"


def _image(path: Path | None) -> Any:
    shown = path is not None and path.suffix in (".jpg", ".png", ".webp") and path.is_file()
    return {"path": str(path), "bytes": None} if shown else None


def _numbered(html: Path, number: int, total: int) -> Path:
    """The sheet of a query: the file that was named, with a number where there are several queries."""
    return html if total == 1 else html.with_name(f"{html.stem}-{number + 1}{html.suffix}")


def _sheet(html: Path, query: str, model: str, found: "list[Found]", images: list[Any], words: Any = None) -> None:
    from omnitune.report.parts import PAGE_WORDS
    from omnitune.retrieval.contact_sheet import write_contact_sheet

    write_contact_sheet(html, query=query, model=model, found=found, images=images, words=words or PAGE_WORDS)
    console.places("Results", {"sheet": html})
