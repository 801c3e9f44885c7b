"""Open what is to be served, and run the server, which gives up a connection whose request does not get on."""

import asyncio
import json
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from omnitune import io
from omnitune.documents.sources import find_document, signed_sources
from omnitune.finetune.choose import load_model
from omnitune.io import printable
from omnitune.model.pair import CrossEncoder
from omnitune.places import PREPARED, retriever_folder
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import load_encoder
from omnitune.serve.address import check_address
from omnitune.serve.app import make_app
from omnitune.serve.served import Served


def open_served(source: str, *, reranker: str | None = None, documents: Path | None = None) -> Served:
    """Open a run, a retriever or a model.

    Args:
        source: Folder of a run or of a retriever; or a model: directory, repository, "embedded".
        reranker: A cross encoder for `/rerank`: directory or repository.
        documents: Folder of the documents that hits link to, and of page images that lie outside of the retriever;
            before the folders that it was made of, if that was done by this user.
    """
    pairs = None if reranker is None else CrossEncoder(reranker)
    folder = Path(source)
    name = folder.resolve().name if folder.is_dir() else source
    place = retriever_folder(folder)
    if place is not None:
        run = place.resolve().parent
        # One that was named may hold page images too; what a run alone names holds the documents that it was made of.
        files = () if documents is None else (documents,)
        in_run = place != folder or (run / "dataset").is_dir()
        retriever = Retriever.open(place, files=files)
        # Embeddings of a run are those of the model it made, unless the retriever has one vector a page of its own.
        own = in_run and "dense" not in retriever.stages and (run / "model" / "modules.json").is_file()
        return Served(
            run.name if in_run else name,
            retriever=retriever,
            encoder=load_encoder(run / "model") if own else None,
            reranker=pairs,
            feedback=(run if in_run else place) / "feedback.jsonl",
            documents=[*files, *signed_sources(place), *signed_sources(run / "dataset")],
        )
    if (folder / "model" / "modules.json").is_file():  # a run that made no retriever
        folder = folder / "model"
    model: Any = load_encoder(folder) if folder.is_dir() else load_model({"model_name_or_path": source})
    if isinstance(model, CrossEncoder):
        return Served(name, reranker=model)
    return Served(name, encoder=model, reranker=pairs)


def links_of(served: Served, source: str) -> str:
    """Say in a sentence to which documents hits link, and what to do where some are missing.

    Args:
        served: With a retriever.
        source: Folder of its run, or its own, as it was opened.
    """
    assert served.retriever is not None
    names = served.retriever.documents
    missing = [name for name in names if find_document(served.documents, name) is None]
    there = " and ".join(printable(str(one)) for one in served.documents if one.is_dir())
    if not missing:
        return f"Hits link to their documents in {there}"
    if served.documents and len(missing) < len(names):
        return (
            f"Hits link to {len(names) - len(missing):,} of {len(names):,} documents, in {there}; "
            f"{printable(missing[0])} {'is' if len(missing) == 1 else 'and others are'} not there: name their folder "
            "with --documents"
        )
    if served.documents:
        gone = " and ".join(printable(str(one)) for one in served.documents)
        return f"Hits link to no documents: none is in {gone} any more; name their folder with --documents"
    run = Path(source) if (Path(source) / "dataset").is_dir() else Path(source).resolve().parent
    facts = io.read_json_or_none(run / "dataset" / PREPARED)
    folder = facts.get("source") if isinstance(facts, dict) else None
    if not isinstance(folder, str):
        return "Hits link to no documents: name their folder with --documents"
    # Not opened unasked: a run of a stranger may name any folder of this machine.
    return (
        f"Hits link to no documents: the run names {printable(folder)}, but has no note that you made it on this "
        "machine; if that folder is yours, give it with --documents"
    )


def serve(served: Served, *, host: str, port: int, api_key: str | None, grace: int) -> None:
    """Serve until SIGTERM or SIGINT; then take nothing new and finish what was accepted.

    Args:
        served: The models.
        host: Address to listen on.
        port: Port.
        api_key: Key of every route but health.
        grace: Seconds that accepted requests may take at the end.

    Raises:
        InputError: The address needs a key.
    """
    check_address(host, api_key)
    app = make_app(served, api_key=api_key or None, hosts=(host,))
    uvicorn.run(
        app,
        host=host,
        port=port,
        http=PatientProtocol,
        log_level="warning",
        timeout_graceful_shutdown=grace,
        server_header=False,
    )


HEAD_SECONDS = 20.0
"""Seconds that the head of a request may take."""
_BODY = json.dumps(
    {
        "error": {
            "message": "expected the whole head of a request in time",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    }
)
_HEAD = "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a limit on the seconds in which the head of a request arrives."""

    seconds = HEAD_SECONDS
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait on while a head is not whole."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.seconds, self._give_up)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(f"{_HEAD}{len(_BODY)}\r\n\r\n{_BODY}".encode())
            self.transport.close()
