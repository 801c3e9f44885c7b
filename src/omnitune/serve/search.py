"""Routes of a served retriever: the search page, its hits, page images, documents and votes."""

import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from omnitune.errors import DatasetError, InputError, ResourceError
from omnitune.io import full_disk_named, inside
from omnitune.retrieval.hits import Hit
from omnitune.retrieval.retriever import Retriever
from omnitune.serve.bodies import json_object, search_request
from omnitune.serve.served import Served

VOTES = ("yes", "no", "passage")
"""The right page, a wrong one, or the right page for another of its passages."""
_IMAGES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
_POLICY = (
    "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

Run = Callable[[Request, str, Sequence[Any]], Awaitable[list[Any]]]
Handler = Callable[[Request], Awaitable[Response]]


class SearchPage:
    """Handlers of the search page and of what it asks for.

    Args:
        served: Its documents' folder and its file of votes.
        retriever: The retriever that is served.
        run: Queues inputs of a kind of work and waits for their results.
    """

    def __init__(self, served: Served, retriever: Retriever, run: Run) -> None:
        self.served, self.retriever, self.run = served, retriever, run
        self.page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    def routes(self) -> list[tuple[str, list[str], Handler]]:
        """Paths, methods and handlers."""
        return [
            ("/", ["GET"], self.home),
            ("/search", ["GET", "POST"], self.search),
            ("/pages/{page:path}", ["GET"], self.image),
            ("/documents/{document:path}", ["GET"], self.document),
            ("/feedback", ["POST"], self.vote),
        ]

    def _entry(self, name: str) -> dict[str, Any]:
        place = self.retriever.segments.ids().get(name)
        if place is None:
            raise HTTPException(404, f"page: expected the id of a page that is indexed, got {name[:80]!r}")
        return self.retriever.segments.parts[place[0]].entry(place[1])

    def _file(self, name: str) -> Path | None:
        if self.served.documents is None:
            return None
        try:
            place = inside(self.served.documents, name)
        except DatasetError:
            return None
        return place if place.is_file() else None

    async def home(self, _request: Request) -> Response:
        """Answer with the search page."""
        return HTMLResponse(self.page, headers=_HEADERS)

    async def search(self, request: Request) -> Response:
        """Answer a query with hits."""
        if request.method == "POST":
            body = json_object(await request.body())
        else:
            given = request.query_params
            body = {"query": given.get("q") or given.get("query"), "top_k": given.get("top_k")}
            body["document"] = given.getlist("document")
        asked, started = search_request(body), time.monotonic()
        [hits] = await self.run(request, "search", [asked])
        found = [_shown(hit, asked.query, self._file(hit.document)) for hit in hits]
        return JSONResponse({"query": asked.query, "seconds": round(time.monotonic() - started, 4), "hits": found})

    async def image(self, request: Request) -> Response:
        """Answer with a page's stored image."""
        path = _image(self._entry(request.path_params["page"]), self.retriever.folder)
        if path is None:
            raise HTTPException(404, "page: expected one with a stored image, got one without")
        return FileResponse(
            path, media_type=_IMAGES[path.suffix.lower()], headers={"Cache-Control": "private, max-age=3600"}
        )

    async def document(self, request: Request) -> Response:
        """Answer with the file of a document."""
        name = request.path_params["document"]
        path = self._file(name) if name in self.retriever.documents else None
        if path is None:
            raise HTTPException(404, "document: expected one that is indexed and whose file is known")
        # What a folder holds beside PDFs and images, such as HTML, must not run as this server's own page.
        shown = path.suffix.lower() in (".pdf", *_IMAGES)
        kind = "inline" if shown else "attachment"
        return FileResponse(
            path, filename=path.name, content_disposition_type=kind, headers={"X-Content-Type-Options": "nosniff"}
        )

    async def vote(self, request: Request) -> Response:
        """Keep a vote."""
        if "json" not in request.headers.get("content-type", ""):
            raise InputError("content-type: expected application/json")
        body = json_object(await request.body())
        query, label, rank = body.get("query"), body.get("label"), body.get("rank")
        if not isinstance(query, str) or not query.strip() or len(query) > 4000:
            raise InputError(f"query: expected the text that was looked for, got {repr(query)[:80]}")
        if label not in VOTES:
            raise InputError(f"label: expected one of {list(VOTES)}, got {repr(label)[:80]}")
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise InputError(f"rank: expected a number from 1, got {repr(rank)[:80]}")
        if self.served.feedback is None:
            raise HTTPException(404, "feedback: this server keeps no votes")
        name = str(self._entry(str(body.get("page")))["id"])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"query": query, "page": name, "label": label, "rank": rank, "time": now}, ensure_ascii=False)
        try:
            # Unbuffered, so that a line is one write, and lines of several servers do not mix.
            with full_disk_named(self.served.feedback), self.served.feedback.open("ab", buffering=0) as file:
                file.write(f"{line}\n".encode())
        except OSError as error:
            raise ResourceError(
                f"feedback: the vote is not kept, the file cannot be written: {error.strerror}"
            ) from error
        return JSONResponse({"kept": True}, 201)


def _shown(hit: Hit, query: str, file: Path | None) -> dict[str, Any]:
    """A hit as JSON, without places of this machine."""
    link = None
    if file is not None:
        at = f"#page={hit.page}" if file.suffix.lower() == ".pdf" and hit.page is not None else ""
        link = f"/documents/{quote(hit.document)}{at}"
    image = _image(hit.entry, None)
    return {
        "rank": hit.rank,
        "id": hit.id,
        "document": hit.document,
        "page": hit.page,
        "label": hit.entry.get("label"),
        "times": hit.entry.get("times"),
        "score": hit.score,
        "snippet": hit.snippet(query, 320),
        "stages": {kind: score if math.isfinite(score) else None for kind, score in hit.stages.items()},
        "words": list(hit.words),
        "boxes": [list(box) for box in hit.boxes],
        "image": None if image is None else f"/pages/{quote(hit.id, safe='')}",
        "link": link,
    }


def _image(entry: Any, folder: Path | None) -> Path | None:
    """The stored image of a page: a path of the index, never one that a client names."""
    given = entry.get("path")
    if not isinstance(given, str) or Path(given).suffix.lower() not in _IMAGES:
        return None
    path = Path(given) if folder is None else folder / given  # an absolute path stays as it is
    return path if folder is None or path.is_file() else None
