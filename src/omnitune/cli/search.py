"""`omnitune search`: the top pages, or segments of recordings or clips, for one query or several."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnitune.cli import console

if TYPE_CHECKING:
    from omnitune.documents.dataset import DocumentDataset


def search(
    source: Annotated[
        str, typer.Argument(help="Folder of a run or of a retriever; or a model: directory, repository, 'embedded'.")
    ],
    words: Annotated[
        list[str],
        typer.Argument(help="What to look for, each query in quotes; after a model, its prepared dataset first."),
    ],
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Pages or segments to show.")] = 5,
    document: Annotated[
        list[str] | None, typer.Option("--document", help="Only pages of this document; may be given several times.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Show every stage's score and the words that match.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json/--no-json", help="Print a line of JSON for each query, and nothing else.")
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
    from omnitune.runtime import no_collection

    if html is not None:
        writable_folder(html.parent)
    place = places.retriever_folder(source)
    start, queries = [source], words
    answers: Iterable[_Answer]
    with console.results_apart(as_json):
        if place is not None:
            with no_collection():
                console.only_our_bars(with_datasets=False)
                answers = list(_from_retriever(place, queries, top_k, document, explain))
        elif len(words) < 2:
            made = (
                ""
                if Path(source).exists()
                else f", where nothing is; omnitune finetune DOCUMENTS --out {source} makes one"
            )
            raise InputError(
                f"SOURCE: expected a folder with a retriever for one query, got {source}{made}; with a model the order "
                'is omnitune search MODEL DATASET "QUERY"'
            )
        elif document or explain:
            raise InputError(f"--document, --explain: expected a folder with a retriever with them, got {source}")
        else:
            places.expect_model(source)
            places.dataset_folder(words[0])
            console.only_our_bars()
            start, queries = [source, words[0]], words[1:]
            answers = _from_model(source, Path(words[0]), queries, top_k)
        for number, answer in enumerate(answers):
            if as_json:
                console.result({"query": answer.query, "hits": answer.hits})
            else:
                _print(answer, explain)
            if html is not None:
                _sheet(_numbered(html, number, len(queries)), answer, source if place is None else str(place))
    if len(queries) > 1 and not any(len(query.split()) > 1 for query in queries):
        # Which is what a question without quotes looks like, and what scripts may mean.
        one = shlex.join(["omnitune", "search", *start, " ".join(queries)])
        console.note(f"{len(queries)} queries of one word each were read. To ask them as one: {one}")


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """Answer to one query.

    Attributes:
        query: What was looked for.
        hits: As `--json` prints them, best first.
        images: Of the hits; None where there is none.
        words: What pages are called; None for "page".
    """

    query: str
    hits: list[dict[str, Any]]
    images: list[Any]
    words: Any = None


def _from_retriever(
    place: Path, queries: list[str], top_k: int, document: list[str] | None, explain: bool
) -> Iterator[_Answer]:
    from omnitune.retrieval.hits import check_documents
    from omnitune.retrieval.retriever import Retriever

    retriever = Retriever.open(place)
    if document:
        check_documents(retriever.documents, document, "--document")
    where = {"document": document} if document else None
    for query, found in zip(queries, retriever.search(queries, top_k, where, explain=explain), strict=True):
        files = [retriever.files.of(hit.entry) for hit in found]
        hits = [
            _hit(hit.rank, hit.score, hit.entry, hit.snippet(query), str(file or hit.entry.get("path") or ""))
            for hit, file in zip(found, files, strict=True)
        ]
        if explain:
            for row, hit in zip(hits, found, strict=True):
                row["stages"] = {name: score if isfinite(score) else None for name, score in hit.stages.items()}
                row["words"] = list(hit.words)
        yield _Answer(query=query, hits=hits, images=list(map(_image, files)))


def _from_model(model: str, folder: Path, queries: list[str], top_k: int) -> Iterator[_Answer]:
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
    for query, found in zip(queries, answers, strict=True):
        wanted = set(words_of(query))
        hits = [
            _hit(hit.rank, hit.score, hit.entry, snippet(pages.page_texts[hit.row], wanted),
                 str(pages.pages[hit.row].get("path") or ""))
            for hit in found
        ]  # fmt: skip
        yield _Answer(query=query, hits=hits, images=[pages.pictures[hit.row] for hit in found], words=words)


def _hit(rank: int, score: float, entry: Any, excerpt: str, path: str) -> dict[str, Any]:
    """A hit as JSON values: all that the lines in a terminal are made of."""
    known = {name: entry.get(name) or None for name in ("page", "label", "times")}
    document = str(entry.get("document", entry["id"]))
    return {"rank": rank, "id": str(entry["id"]), "document": document, **known, "score": float(score),
            "excerpt": excerpt, "path": path or None}  # fmt: skip


def _print(answer: _Answer, explain: bool) -> None:
    from omnitune.ops.bm25 import words as words_of

    shown = []
    for hit in answer.hits:
        lines = [hit["path"] or ""]  # named, not opened
        if explain:
            scores = {name: float("-inf") if score is None else score for name, score in hit["stages"].items()}
            lines.append(", ".join(f"{name} {score:z.3f}" for name, score in scores.items()))
            lines.append("matches: " + " ".join(hit["words"]))
        shown.append((_place(hit), f"{hit['score']:z.3f}", hit["excerpt"], [line for line in lines if line]))
    console.hits(answer.query, shown, set(words_of(answer.query)))


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


def _sheet(html: Path, answer: _Answer, model: str) -> None:
    from omnitune.report.parts import PAGE_WORDS
    from omnitune.retrieval.base import Found
    from omnitune.retrieval.contact_sheet import write_contact_sheet

    found = [
        Found(rank=hit["rank"], score=hit["score"], row=0, entry={k: v for k, v in hit.items() if v is not None})
        for hit in answer.hits
    ]
    write_contact_sheet(html, query=answer.query, model=model, found=found, images=answer.images,
                        excerpts=[hit["excerpt"] for hit in answer.hits], words=answer.words or PAGE_WORDS)  # fmt: skip
    console.places("Results", {"sheet": html})
