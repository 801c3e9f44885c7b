"""`omnitune serve`: an API and a search page over a retriever or a model."""

from pathlib import Path
from typing import Annotated

import typer

from omnitune.cli import console


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
        Path | None, typer.Option("--documents", help="Folder of the documents that hits link to.", exists=True)
    ] = None,
    grace: Annotated[int, typer.Option("--grace", min=0, help="Seconds to finish accepted requests at the end.")] = 30,
) -> None:
    """Serve embeddings, reranking and search over HTTP, and a search page in the browser.

    OpenAI's client uses it unchanged: set its base URL to `http://HOST:PORT/v1`.
    """
    from omnitune.runtime import require

    for package in ("starlette", "uvicorn"):
        require(package, extra="serve")
    from omnitune.serve import run

    console.only_our_bars()
    run.check_address(host, api_key)
    served = run.open_served(source, reranker=reranker, documents=documents)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    routes = {"embeddings": served.encoder is not None, "rerank": bool(served.encoder or served.reranker)}
    console.say(f"{served.name} at {address}: {', '.join(name for name, there in routes.items() if there)}")
    if served.retriever is not None:
        console.say(f"Search page of {len(served.retriever):,} pages: {address}/")
    run.serve(served, host=host, port=port, api_key=api_key, grace=grace)
