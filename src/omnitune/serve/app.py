"""The routes of a server.

A handler checks the body, queues its inputs (see `worker`) and answers when their results are there. A client that goes
away takes its waiting inputs with it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omnitune.errors import OmnituneError, ResourceError
from omnitune.places import hint
from omnitune.serve.answers import Metrics, error_response
from omnitune.serve.api import Api
from omnitune.serve.guard import LOOPBACK, MOST_BYTES, PATIENCE, Guard
from omnitune.serve.search import SearchPage
from omnitune.serve.served import Served
from omnitune.serve.worker import LIMIT, QueueFullError, Worker

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    served: Served,
    *,
    api_key: str | None = None,
    hosts: Sequence[str] = (),
    queue: int = LIMIT,
    most_bytes: int = MOST_BYTES,
    patience: float = PATIENCE,
) -> Starlette:
    """Make the application; its thread starts at once and ends with it.

    Args:
        served: The models.
        api_key: Key of every route but health.
        hosts: Names by which it may be addressed without a key, besides those of this machine.
        queue: Inputs that may wait.
        most_bytes: Bytes of one body.
        patience: Seconds to wait for the next part of a body.
    """
    worker, metrics = Worker(served.works(), limit=queue), Metrics()
    api = Api(served, worker, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.stop)

    routes: list[tuple[str, list[str], Handler]] = [
        ("/v1/embeddings", ["POST"], api.embeddings),
        ("/v2/embed", ["POST"], api.cohere_embed),
        *((path, ["POST"], api.rerank) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
        *((path, ["POST"], api.score) for path in ("/score", "/v1/score")),
        ("/v1/models", ["GET"], api.models),
        ("/info", ["GET"], api.info),
        ("/health", ["GET"], api.health),
        ("/ready", ["GET"], api.ready),
        ("/metrics", ["GET"], api.counts),
        *(SearchPage(served, served.retriever, api.run).routes() if served.retriever is not None else []),
    ]
    paths = list(dict.fromkeys(path for path, _, _ in routes))

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        said, asked = error.detail, request.url.path
        if error.status_code == 404:
            said = f"path: expected one of {', '.join(paths)}, got {asked[:80]!r}{hint(asked, paths)}"
        elif error.status_code == 405:
            said = f"method: expected {(error.headers or {}).get('Allow')}, got {request.method} of {asked[:80]}"
        return error_response(error.status_code, said, headers=error.headers)

    app = Starlette(
        routes=[Route(path, _measured(path, handler, metrics), methods=methods) for path, methods, handler in routes],
        exception_handlers={HTTPException: refused},
        lifespan=lifespan,
    )
    hosts = (*LOOPBACK, *hosts)
    app.add_middleware(Guard, api_key=api_key, hosts=hosts, most_bytes=most_bytes, patience=patience)
    app.state.worker = worker
    return app


def _measured(path: str, handler: Handler, metrics: Metrics) -> Handler:
    """Turn a handler's errors into answers, and count them."""

    async def measured(request: Request) -> Response:
        started = time.monotonic()
        response: Response
        try:
            response = await handler(request)
        except QueueFullError as error:
            response = error_response(429, str(error), headers={"Retry-After": str(error.seconds)})
        except ResourceError as error:
            response = error_response(503, str(error), headers={"Retry-After": "5"})
        except HTTPException as error:
            response = error_response(error.status_code, error.detail, headers=error.headers)
        except OmnituneError as error:
            name = str(error).partition(":")[0]
            response = error_response(400, str(error), param=name if name.isidentifier() else None)
        except Exception:  # noqa: BLE001  # of any kind: its text may name places of this machine, so it is logged
            logger.exception("%s failed", path)
            response = error_response(500, "the server failed at this request; its log says why")
        metrics.add(path, response.status_code, time.monotonic() - started)
        return response

    return measured
