"""The routes of a server.

A handler checks the body, queues its inputs (see `worker`) and answers when their results are there. A client that goes
away takes its waiting inputs with it.
"""

import asyncio
import base64
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from omnitune._version import __version__
from omnitune.errors import InputError, MediaError, OmnituneError, ResourceError
from omnitune.serve.answers import Metrics, error_response
from omnitune.serve.bodies import embedding_request, json_object, rerank_request
from omnitune.serve.guard import LOOPBACK, MOST_BYTES, Guard
from omnitune.serve.search import SearchPage
from omnitune.serve.served import Served, Vector
from omnitune.serve.worker import LIMIT, QueueFullError, Worker

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
_GONE = 499  # as nginx counts clients that went away before the answer


def make_app(
    served: Served,
    *,
    api_key: str | None = None,
    hosts: Sequence[str] = (),
    queue: int = LIMIT,
    most_bytes: int = MOST_BYTES,
) -> Starlette:
    """Make the application; its thread starts at once and ends with it.

    Args:
        served: The models.
        api_key: Key of every route but health.
        hosts: Names by which it may be addressed without a key, besides those of this machine.
        queue: Inputs that may wait.
        most_bytes: Bytes of one body.
    """
    worker, metrics = Worker(served.works(), limit=queue), Metrics()
    api = Api(served, worker, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.stop)

    routes: list[tuple[str, list[str], Handler]] = [
        ("/v1/embeddings", ["POST"], api.embeddings),
        *((path, ["POST"], api.rerank) for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
        ("/v1/models", ["GET"], api.models),
        ("/info", ["GET"], api.info),
        ("/health", ["GET"], api.health),
        ("/ready", ["GET"], api.ready),
        ("/metrics", ["GET"], api.counts),
        *(SearchPage(served, served.retriever, api.run).routes() if served.retriever is not None else []),
    ]
    app = Starlette(
        routes=[Route(path, _measured(path, handler, metrics), methods=methods) for path, methods, handler in routes],
        exception_handlers={HTTPException: _refused},
        lifespan=lifespan,
    )
    app.add_middleware(Guard, api_key=api_key, hosts=(*LOOPBACK, *hosts), most_bytes=most_bytes)
    app.state.worker = worker
    return app


class Api:
    """Handlers of the routes that any server has.

    Args:
        served: The models.
        worker: Runs them.
        metrics: Counts of answers.
    """

    def __init__(self, served: Served, worker: Worker, metrics: Metrics) -> None:
        self.served, self.worker, self.metrics = served, worker, metrics

    async def run(self, request: Request, kind: Hashable, items: Sequence[Any]) -> list[Any]:
        """Queue inputs of a kind of work, and wait for their results in the same order."""
        return await _finished(request, self.worker, kind, items, [self.served.cost(item) for item in items])

    async def embeddings(self, request: Request) -> Response:
        """Answer `/v1/embeddings` as OpenAI does."""
        body = json_object(await request.body())
        asked = embedding_request(body)
        _check_name(body, self.served)
        if self.served.encoder is None:
            raise InputError("embeddings: expected a model of one vector an input, got a server without one")
        dim = self.served.encoder.get_embedding_dimension()
        if asked.dimensions is not None and dim is not None and asked.dimensions > dim:
            raise InputError(f"dimensions: expected at most {dim}, which the model has, got {asked.dimensions}")
        found: list[Vector] = await self.run(request, asked.role, asked.items)
        data = []
        for place, vector in enumerate(found):
            values = np.ascontiguousarray(_cut(vector.values, asked.dimensions), dtype="<f4")
            shown = base64.b64encode(values.tobytes()).decode() if asked.base64 else values.tolist()
            more = {"truncated": True} if vector.truncated else {}
            data.append({"object": "embedding", "index": place, "embedding": shown, **more})
        tokens, truncated = sum(one.tokens for one in found), sum(one.truncated for one in found)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        headers = {"x-omnitune-truncated": f"{truncated}/{len(found)}"} if truncated else {}
        answer = {"object": "list", "data": data, "model": self.served.name, "usage": usage}
        return JSONResponse(answer, headers=headers)

    async def rerank(self, request: Request) -> Response:
        """Answer `/rerank` as Cohere and Jina do."""
        body = json_object(await request.body())
        asked = rerank_request(body)
        _check_name(body, self.served)
        if self.served.reranker is not None:
            scores = await self.run(request, "rerank", [(asked.query, one) for one in asked.documents])
        elif self.served.encoder is not None:
            query = await self.run(request, "query", [asked.query])
            found = await self.run(request, "document", asked.documents)
            rows = np.stack([one.values for one in found])
            scores = self.served.encoder.similarity(query[0].values[None], rows)[0].tolist()
        else:
            raise InputError("rerank: expected a reranker or a dense encoder, got a server without one; see --reranker")
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[: asked.top_n]
        results: list[dict[str, Any]] = [{"index": place, "relevance_score": scores[place]} for place in order]
        if asked.return_documents:
            results = [{**one, "document": {"text": asked.documents[one["index"]]}} for one in results]
        return JSONResponse({"id": f"rerank-{uuid.uuid4().hex}", "model": self.served.name, "results": results})

    async def models(self, _request: Request) -> Response:
        """Name the model, as OpenAI does."""
        one = {"id": self.served.name, "object": "model", "created": 0, "owned_by": "omnitune"}
        return JSONResponse({"object": "list", "data": [one]})

    async def info(self, _request: Request) -> Response:
        """Tell what is served."""
        return JSONResponse(_facts(self.served, self.worker))

    async def health(self, _request: Request) -> Response:
        """Tell that the process lives."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Tell whether requests are taken."""
        return JSONResponse({"ready": self.worker.ready}, 200 if self.worker.ready else 503)

    async def counts(self, _request: Request) -> Response:
        """Answer with all counts, for Prometheus."""
        gauges = {
            "omnitune_queue_inputs": ("gauge", float(self.worker.waiting)),
            "omnitune_batches_total": ("counter", float(self.worker.batches)),
            "omnitune_inputs_total": ("counter", float(self.worker.done)),
            "omnitune_dropped_inputs_total": ("counter", float(self.worker.dropped)),
            "omnitune_refused_requests_total": ("counter", float(self.worker.refused)),
        }
        return PlainTextResponse(self.metrics.text(gauges), media_type="text/plain; version=0.0.4")


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
            response = error_response(error.status_code, error.detail)
        except OmnituneError as error:
            name = str(error).partition(":")[0]
            response = error_response(400, str(error), param=name if name.isidentifier() else None)
        except Exception:  # noqa: BLE001  # of any kind: its text may name places of this machine, so it is logged
            logger.exception("%s failed", path)
            response = error_response(500, "the server failed at this request; its log says why")
        metrics.add(path, response.status_code, time.monotonic() - started)
        return response

    return measured


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, error.detail)


async def _finished(
    request: Request, worker: Worker, kind: Hashable, items: Sequence[Any], costs: Sequence[int]
) -> list[Any]:
    """Queue the inputs of a request and wait for their results, as long as its client waits."""
    futures = worker.submit(kind, items, costs)
    waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
    gone = asyncio.create_task(_gone(request))
    try:
        either: list[asyncio.Future[Any]] = [waiting, gone]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise HTTPException(_GONE, "the client went away")
        for place, future in enumerate(futures):
            # Its own number among the inputs of the request, which is another than its row in a batch.
            if future.done() and isinstance(failed := future.exception(), MediaError):
                raise failed.at(f"input {place}")
        return list(await waiting)
    finally:
        gone.cancel()
        for future in futures:  # of those that ran nothing is changed by it
            future.cancel()
        waiting.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _cut(values: Any, dimensions: int | None) -> Any:
    """The first dimensions of a vector, of unit length again as OpenAI's are."""
    if dimensions is None:
        return values
    kept = values[:dimensions]
    return kept / max(float(np.linalg.norm(kept)), 1e-12)


def _check_name(body: dict[str, Any], served: Served) -> None:
    name = body.get("model")
    if name is not None and name != served.name:
        # Another model's vectors, taken for those of the one that was asked for, would be a silent error.
        raise HTTPException(404, f"model: expected {served.name!r}, which is served here, got {repr(name)[:80]}")


def _facts(served: Served, worker: Worker) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": served.name, "version": __version__, "queue": worker.limit, "batch": worker.most}
    if served.encoder is not None:
        facts["dimensions"] = served.encoder.get_embedding_dimension()
        facts["max_input_tokens"] = served.encoder.max_seq_length
        facts["modalities"] = [str(one) for one in served.encoder.modalities]
    facts["reranker"] = served.reranker is not None
    if served.retriever is not None:
        facts |= {"stages": list(served.retriever.stages), "pages": len(served.retriever)}
        facts["documents"] = served.retriever.documents
    return facts
