"""Routes of a served retriever: the search page, its hits and why they were found, media, documents and votes."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from omnitune.documents.read.pages import picture_of
from omnitune.documents.sources import find_document
from omnitune.errors import InputError, ResourceError
from omnitune.io import full_disk_named
from omnitune.retrieval.hits import Hit, check_documents
from omnitune.retrieval.reasons import Reason
from omnitune.retrieval.retriever import Retriever
from omnitune.serve.answers import Answer
from omnitune.serve.bodies import (
    FEEDBACK,
    MOST_HITS,
    SEARCH,
    WHY,
    check_names,
    checked_query,
    read_json,
    search_request,
)
from omnitune.serve.served import Served, WhyRequest

VOTES = ("yes", "no", "passage")
"""The right page, a wrong one, or the right page for another of its passages."""
_IMAGES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
_SOUNDS = {".wav": "audio/wav", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".flac": "audio/flac", ".m4a": "audio/mp4"}
_CLIPS = {".mp4": "video/mp4", ".webm": "video/webm"}
_PLAYED = {**_SOUNDS, **_CLIPS}
"""Files that browsers play; of another one, the segment that a run kept is played."""
_POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; media-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
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
            ("/why", ["GET"], self.why),
            ("/pages/{page:path}", ["GET"], self.image),
            ("/segments/{page:path}", ["GET"], self.segment),
            ("/documents/{document:path}", ["GET"], self.document),
            ("/feedback", ["POST"], self.vote),
        ]

    def _entry(self, name: str) -> dict[str, Any]:
        place = self.retriever.segments.ids().get(name)
        if place is None:
            raise HTTPException(404, f"page: expected the id of a page that is indexed, got {name[:80]!r}")
        return self.retriever.segments.parts[place[0]].entry(place[1])

    def _file(self, name: str) -> Path | None:
        return find_document(self.served.documents, name)

    async def home(self, _request: Request) -> Response:
        """Answer with the search page."""
        return HTMLResponse(self.page, headers=_HEADERS)

    async def search(self, request: Request) -> Response:
        """Answer a query with hits."""
        if request.method == "POST":
            body = await read_json(request, SEARCH)
        else:
            body = _parameters(request, [name for name in SEARCH if name not in ("where", "image")])
        asked, started = search_request(body, self.served.rankings), time.monotonic()
        only = (asked.where or {}).get("document", [])
        check_documents(self.retriever.documents, map(str, only if isinstance(only, list) else [only]), "document")
        if asked.image is not None and not self.served.sees:
            raise InputError("image: expected text, as no model here takes images and no recogniser is installed")
        if asked.image is not None and self.served.compares_images and asked.ranking != self.served.rankings[0]:
            raise InputError(f"ranking: expected none beside an image, which models compare, got {asked.ranking!r}")
        [hits] = await self.run(request, "search", [asked])
        found = [self._shown(hit, asked.query) for hit in hits]
        return Answer({"query": asked.query, "seconds": round(time.monotonic() - started, 4), "hits": found})

    async def why(self, request: Request) -> Response:
        """Answer with the sentence of a page that is closest to a query, or with the patches of its image."""
        given = _parameters(request, WHY)
        page = given.get("page", "")
        self._entry(page)
        query = checked_query(given.get("q", given.get("query")))
        found: list[Reason] = await self.run(request, "why", [WhyRequest(query, page)])
        return Answer(dataclasses.asdict(found[0]))

    async def image(self, request: Request) -> Response:
        """Answer with a page's stored image; of a segment, with the picture of it."""
        path = self._stored(self._entry(request.path_params["page"]))
        path = None if path is None else Path(picture_of(path.as_posix()))
        held = path is not None and self.retriever.files.hold(path)  # the picture of a segment may be a link
        if path is None or not held or path.suffix.lower() not in _IMAGES or not path.is_file():
            raise HTTPException(404, "page: expected one with a stored image, got one without")
        return _file(path, _IMAGES)

    async def segment(self, request: Request) -> Response:
        """Answer with the stored recording or clip of a segment."""
        path = self._stored(self._entry(request.path_params["page"]))
        if path is None or path.suffix.lower() not in _PLAYED or not path.is_file():
            raise HTTPException(404, "page: expected a segment with a stored recording or clip, got one without")
        return _file(path, _PLAYED)

    async def document(self, request: Request) -> Response:
        """Answer with the file of a document."""
        name = request.path_params["document"]
        try:
            check_documents(self.retriever.documents, [name], "document")
        except InputError as error:
            raise HTTPException(404, str(error)) from error
        path = self._file(name)
        if path is None:
            raise HTTPException(
                404,
                f"document: expected one whose file is there, got {name[:80]!r}, which is indexed and whose file is in "
                "none of the folders that this server knows; omnitune serve --documents FOLDER names one",
            )
        # What a folder holds beside PDFs and images, such as HTML, must not run as this server's own page.
        shown = path.suffix.lower() in (".pdf", *_IMAGES, *_PLAYED)
        kind = "inline" if shown else "attachment"
        return FileResponse(
            path,
            filename=name.rpartition("/")[2],  # the file's own name may have bytes that no header holds
            content_disposition_type=kind,
            headers={"X-Content-Type-Options": "nosniff"},
        )

    async def vote(self, request: Request) -> Response:
        """Keep a vote."""
        body = await read_json(request, FEEDBACK)
        query, label, rank = body.get("query"), body.get("label"), body.get("rank")
        if not isinstance(query, str) or not query.strip() or len(query) > 4000:
            raise InputError(f"query: expected the text that was looked for, got {repr(query)[:80]}")
        if label not in VOTES:
            raise InputError(f"label: expected one of {list(VOTES)}, got {repr(label)[:80]}")
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MOST_HITS:
            raise InputError(f"rank: expected a number from 1 to {MOST_HITS}, got {repr(rank)[:80]}")
        if not isinstance(body.get("page"), str):
            raise InputError(f"page: expected the id of a page, got {repr(body.get('page'))[:80]}")
        if self.served.feedback is None:
            raise HTTPException(404, "feedback: this server keeps no votes")
        name = str(self._entry(body["page"])["id"])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"query": query, "page": name, "label": label, "rank": rank, "time": now}, ensure_ascii=False)
        try:
            # Unbuffered, so that a line is one write, and lines of several servers do not mix.
            with (
                full_disk_named(self.served.feedback),
                open(self.served.feedback, "a+b", buffering=0, opener=_no_link) as file,
            ):
                # A server that was killed may have left half a line; without a new one this vote would be lost with it.
                end = file.seek(0, os.SEEK_END)
                torn = end and file.seek(end - 1) >= 0 and file.read(1) != b"\n"
                file.write(b"\n" * bool(torn) + f"{line}\n".encode())
        except OSError as error:
            raise ResourceError(
                f"feedback: the vote is not kept, the file cannot be written: {error.strerror}"
            ) from error
        return Answer({"kept": True}, 201)

    def _shown(self, hit: Hit, query: str) -> dict[str, Any]:
        """A hit as JSON, without places of this machine."""
        file, stored = self._file(hit.document), self._stored(hit.entry)
        suffix = "" if stored is None else stored.suffix.lower()
        link = None if file is None else f"/documents/{_quoted(hit.document)}"
        start, stop = _seconds(hit.entry.get("times"))
        playing = None
        if suffix in _PLAYED:
            kind = "audio" if suffix in _SOUNDS else "video"
            whole = link is not None and file is not None and file.suffix.lower() in _PLAYED and stop > start
            at = f"#t={start:g},{stop:g}"
            playing = {"kind": kind, "start": start if whole else 0.0,
                       "source": f"{link}{at}" if whole else f"/segments/{_quoted(hit.id, safe='')}"}  # fmt: skip
        if link is not None and file is not None:
            if file.suffix.lower() == ".pdf" and hit.page is not None:
                link += f"#page={hit.page}"
            elif stop > start:
                link += f"#t={start:g}"
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
            "ranks": dict(hit.ranks),
            "words": list(hit.words),
            "boxes": [list(box) for box in hit.boxes],
            "image": self._picture(hit.id, stored),
            "playing": playing,
            "neighbours": self._neighbours(hit),
            "link": link,
        }

    def _neighbours(self, hit: Hit) -> list[dict[str, Any]]:
        """The pages before and after a hit, as far as they are indexed under the usual names."""
        found = []
        if hit.page is not None and hit.id == f"{hit.document}#{hit.page}":
            places = self.retriever.segments.ids()
            for page in (hit.page - 1, hit.page + 1):
                if (name := f"{hit.document}#{page}") in places:
                    image = self._picture(name, self._stored(self._entry(name)))
                    found.append({"page": page, "id": name, "image": image})
        return found

    def _stored(self, entry: Mapping[str, Any]) -> Path | None:
        """The stored image or segment of a page: a path of the index, never one that a client names."""
        path = self.retriever.files.of(entry)
        return path if path is not None and path.suffix.lower() in (*_IMAGES, *_PLAYED) else None

    @staticmethod
    def _picture(name: str, stored: Path | None) -> str | None:
        """Address of a page's image, where there may be one."""
        shown = stored is not None and Path(picture_of(stored.as_posix())).suffix.lower() in _IMAGES
        return f"/pages/{_quoted(name, safe='')}" if shown else None


def _quoted(name: str, safe: str = "/") -> str:
    return quote(name, safe=safe, errors="replace")  # an id may hold what is no text, and no address has it


def _file(path: Path, types: Mapping[str, str]) -> FileResponse:
    kept = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=types[path.suffix.lower()], headers=kept)


def _parameters(request: Request, names: Sequence[str]) -> dict[str, Any]:
    """The parameters in the address of a request; `document` may be there several times.

    Raises:
        InputError: One means nothing here, or is there twice.
    """
    given = request.query_params
    check_names(given, names)
    found = {name: given.getlist(name) for name in given}
    for name, values in found.items():
        if len(values) > 1 and name != "document":
            raise InputError(f"{name}: expected it once, got {len(values)} of it")
    return {name: values if name == "document" else values[0] for name, values in found.items()}


def _no_link(path: str, flags: int) -> int:
    """Open a file that is no link: that of a stranger's run could lead to any file of this user."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _seconds(times: Any) -> tuple[float, float]:
    """Start and end of "0:30-0:45" or "1:02:03.5-1:02:10"; zeros for what is none."""
    parts = str(times or "").split("-")
    try:
        start, stop = (sum(60**n * float(one) for n, one in enumerate(reversed(part.split(":")))) for part in parts)
    except ValueError:
        return 0.0, 0.0
    return start, stop
