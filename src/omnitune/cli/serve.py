"""`omnitune serve`: an API and a search page over a retriever or a model."""

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated

import typer

from omnitune import places
from omnitune.cli import console
from omnitune.errors import CheckpointNotFoundError


def serve(
    source: Annotated[
        str, typer.Argument(help="Folder of a run or of a retriever; or a model: directory, repository, 'embedded'.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; another than this machine's needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option("--api-key", envvar="OMNITUNE_API_KEY", help="Key of every route but /health.")
    ] = None,
    reranker: Annotated[str | None, typer.Option("--reranker", help="A cross encoder for /rerank.")] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            "--documents", help="Folder of the documents that hits link to; a run made here knows its own.", exists=True
        ),
    ] = None,
    grace: Annotated[int, typer.Option("--grace", min=0, help="Seconds to finish accepted requests at the end.")] = 30,
) -> None:
    """Serve embeddings, reranking and search over HTTP, and a search page in the browser.

    OpenAI's client uses it unchanged: set its base URL to `http://HOST:PORT/v1`.
    """
    from omnitune.runtime import no_collection, require

    sleep_soon(os.environ)
    if places.retriever_folder(source) is None and not (Path(source) / "model" / "modules.json").is_file():
        try:
            places.expect_model(source)
        except CheckpointNotFoundError as error:
            said = str(error).removeprefix("model_name_or_path: ")
            raise CheckpointNotFoundError(
                f"SOURCE: {said}; omnitune finetune DOCUMENTS --out {source} makes a run to serve"
            ) from error
    if reranker is not None:
        places.expect_model(reranker)
    for package in ("starlette", "uvicorn"):
        require(package, extra="serve")
    from omnitune.serve.address import check_address, check_port

    check_address(host, api_key)
    check_port(host, port)
    console.say(f"Opening {source}")
    with no_collection(), console.line_a_minute(f"Opening {source}"):
        from omnitune.serve import run

        console.only_our_bars(with_datasets=False)
        served = run.open_served(source, reranker=reranker, documents=documents)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if served.retriever is not None:
        console.say(f"Search page of {served.name}, {len(served.retriever):,} pages: {address}/")
        console.say(run.links_of(served, source))
    routes = {
        "/search": served.retriever is not None,
        "/v1/embeddings": served.encoder is not None,
        "/rerank": bool(served.encoder or served.reranker),
    }
    paths = ", ".join(path for path, there in routes.items() if there)
    console.say(f"API of {served.name} at {address}: {paths}, and /info tells what is served")
    run.serve(served, host=host, port=port, api_key=api_key, grace=grace)


WAITING = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}
"""How long a compute thread spins before it sleeps: rounds of GNU's OpenMP, milliseconds of LLVM's."""


def sleep_soon(environment: MutableMapping[str, str]) -> None:
    """Have compute threads that wait for one another sleep soon, unless the user has said how they wait.

    By default they spin for milliseconds. A server shares its cores with the loop that reads requests, and with what
    else the machine does; there, a thread that spins keeps the one that it waits for from running. This must come
    before torch is loaded, as OpenMP reads it once.
    """
    if not {"OMP_WAIT_POLICY", *WAITING} & environment.keys():
        environment.update(WAITING)
