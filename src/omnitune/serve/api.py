"""Handlers of the routes that any server has: embeddings, rerank, scores, and what is served."""

import asyncio
import uuid
from collections.abc import Hashable, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from omnitune._version import __version__
from omnitune.errors import InputError, MediaError
from omnitune.serve.answers import Answer, Metrics
from omnitune.serve.bodies import (
    COHERE,
    EMBEDDINGS,
    RERANK,
    SCORE,
    EmbeddingRequest,
    cohere_request,
    embedding_request,
    read_json,
    rerank_request,
    score_request,
)
from omnitune.serve.served import Score, Served
from omnitune.serve.vectors import Vector, as_base64, cut, formatted, reach_of
from omnitune.serve.worker import Worker

_GONE = 499  # as nginx counts clients that went away before the answer


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
        costs = [self.served.cost(item) for item in items]
        return await _finished(request, self.worker, kind, items, costs)

    async def _embedded(self, request: Request, body: dict[str, Any], asked: EmbeddingRequest) -> list[Vector]:
        self._check_name(body)
        encoder = self.served.encoder
        if encoder is None:
            raise InputError("embeddings: expected an embedding model, got a server without one")
        if asked.dimensions is not None:
            dim = encoder.get_embedding_dimension()
            if self.served.family != "dense":
                raise InputError(f"dimensions: expected none with a {self.served.family} model, got {asked.dimensions}")
            if dim is not None and asked.dimensions > dim:
                raise InputError(f"dimensions: expected at most {dim}, which the model has, got {asked.dimensions}")
        found: list[Vector] = await self.run(request, asked.role, asked.items)
        long = next((place for place, one in enumerate(found) if one.truncated), None)
        if asked.whole and long is not None:
            raise InputError(
                f"input {long}: expected at most {encoder.max_seq_length} tokens with truncate 'NONE', got "
                f"{found[long].tokens}"
            )
        return found

    async def embeddings(self, request: Request) -> Response:
        """Answer `/v1/embeddings` as OpenAI does; several vectors an input, and sparse ones, as vLLM and TEI do."""
        body = await read_json(request, EMBEDDINGS)
        asked = embedding_request(body)
        kind, encoding = asked.types
        found = await self._embedded(request, body, asked)
        data = []
        for place, vector in enumerate(found):
            more: dict[str, Any] = {"truncated": True} if vector.truncated else {}
            if vector.indices is not None:
                pairs = zip(vector.indices.tolist(), vector.values.tolist(), strict=True)
                shown: Any = [{"index": column, "value": value} for column, value in pairs]
            else:
                values = formatted(cut(vector.values, asked.dimensions), kind)
                shown = as_base64(values) if encoding == "base64" else values.tolist()
                if values.ndim == 2 and encoding == "base64":
                    more["shape"] = list(values.shape)
            data.append({"object": "embedding", "index": place, "embedding": shown, **more})
        tokens = sum(one.tokens for one in found)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": self.served.name, "usage": usage}
        return Answer(answer, headers=_truncated(found))

    async def cohere_embed(self, request: Request) -> Response:
        """Answer `/v2/embed` as Cohere does."""
        body = await read_json(request, COHERE)
        asked = cohere_request(body)
        if self.served.family != "dense":
            raise InputError(
                f"/v2/embed: expected a model of one vector an input, got a {self.served.family} one; /v1/embeddings "
                "answers with its vectors"
            )
        found = await self._embedded(request, body, asked)
        vectors = [cut(one.values, asked.dimensions) for one in found]
        made: dict[str, list[Any]] = {}
        for kind in asked.types:
            if kind == "base64":
                made[kind] = [as_base64(formatted(values, "float")) for values in vectors]
            else:
                made[kind] = [formatted(values, kind).tolist() for values in vectors]
        tokens = sum(one.tokens for one in found)
        answer = {
            "id": uuid.uuid4().hex,
            "response_type": "embeddings_by_type",
            "embeddings": made,
            **({"texts": body["texts"]} if body.get("texts") is not None else {}),
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}},
        }
        return Answer(answer, headers=_truncated(found))

    async def rerank(self, request: Request) -> Response:
        """Answer `/rerank` as Cohere and Jina do."""
        body = await read_json(request, RERANK)
        asked = rerank_request(body)
        found = await self._scores(request, body, [(asked.query, one) for one in asked.documents])
        order = sorted(range(len(found)), key=lambda place: (-found[place].value, place))[: asked.top_n]
        results = []
        for place in order:
            given = asked.documents[place]
            shown = {"document": {"text": given} if isinstance(given, str) else given}
            more = shown if asked.return_documents else {}
            results.append({"index": place, "relevance_score": found[place].value, **more})
        answer = {"id": f"rerank-{uuid.uuid4().hex}", "model": self.served.name, "results": results}
        return Answer(answer, headers=_truncated(found))

    async def score(self, request: Request) -> Response:
        """Answer `/score` as vLLM does: a score for every pair, in their order."""
        body = await read_json(request, SCORE)
        found = await self._scores(request, body, score_request(body))
        data = [{"index": place, "object": "score", "score": one.value} for place, one in enumerate(found)]
        answer = {"id": f"score-{uuid.uuid4().hex}", "object": "list", "model": self.served.name, "data": data}
        return Answer(answer, headers=_truncated(found))

    async def _scores(self, request: Request, body: dict[str, Any], pairs: Sequence[tuple[Any, Any]]) -> list[Score]:
        self._check_name(body)
        if self.served.reranker is None and self.served.encoder is None:
            raise InputError("rerank: expected a reranker or an encoder, got a server without one; see --reranker")
        return await self.run(request, "rerank", pairs)

    async def models(self, _request: Request) -> Response:
        """Name the model, as OpenAI does."""
        one = {"id": self.served.name, "object": "model", "created": 0, "owned_by": "omnitune"}
        return Answer({"object": "list", "data": [one]})

    async def info(self, _request: Request) -> Response:
        """Tell what is served."""
        facts: dict[str, Any] = {
            "name": self.served.name,
            "version": __version__,
            "queue": self.worker.limit,
            "batch": self.worker.most,
        }
        if self.served.encoder is not None:
            dim = self.served.encoder.get_embedding_dimension()
            facts |= {
                "embeddings": self.served.family,
                "dimensions": dim,
                "max_input_tokens": self.served.encoder.token_limit,
            }
            facts["modalities"] = [str(one) for one in self.served.encoder.modalities]
            if self.served.family == "dense" and dim is not None:
                facts["int8_range"] = reach_of(dim)
        facts["reranker"] = self.served.reranker is not None
        if self.served.retriever is not None:
            fusion, rerank = self.served.retriever.fusion, self.served.retriever.rerank
            facts |= {"stages": list(self.served.retriever.stages), "pages": len(self.served.retriever)}
            facts["fusion"] = None if fusion is None else {"method": fusion.method, "weights": dict(fusion.weights)}
            facts["rerank"] = None if rerank is None else rerank.depth
            facts |= {
                "documents": self.served.retriever.documents,
                "rankings": self.served.rankings,
                "image_queries": self.served.sees,
            }
        return Answer(facts)

    async def health(self, _request: Request) -> Response:
        """Tell that the process lives."""
        return Answer({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """Tell whether requests are taken."""
        return Answer({"ready": self.worker.ready}, 200 if self.worker.ready else 503)

    async def counts(self, _request: Request) -> Response:
        """Answer with all counts, for Prometheus."""
        gauges = {
            "omnitune_queue_inputs": ("gauge", float(self.worker.waiting)),
            "omnitune_batch_budget_tokens": ("gauge", float(self.worker.budget)),
            "omnitune_batches_total": ("counter", float(self.worker.batches)),
            "omnitune_inputs_total": ("counter", float(self.worker.done)),
            "omnitune_dropped_inputs_total": ("counter", float(self.worker.dropped)),
            "omnitune_refused_requests_total": ("counter", float(self.worker.refused)),
        }
        return PlainTextResponse(self.metrics.text(gauges), media_type="text/plain; version=0.0.4")

    def _check_name(self, body: dict[str, Any]) -> None:
        name = body.get("model")
        if name is not None and name != self.served.name:
            # Another model's vectors, taken for those of the one that was asked for, would be a silent error.
            raise HTTPException(
                404, f"model: expected {self.served.name!r}, which is served here, got {repr(name)[:80]}"
            )


async def _finished(
    request: Request, worker: Worker, kind: Hashable, items: Sequence[Any], costs: Sequence[int]
) -> list[Any]:
    """Queue the inputs of a request and wait for their results, as long as its client waits."""
    futures = worker.submit(kind, items, costs)
    waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
    waiting.add_done_callback(lambda one: one.cancelled() or one.exception())  # looked at, or asyncio logs it
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


def _truncated(found: Sequence[Vector | Score]) -> dict[str, str]:
    """The header that says how many inputs were cut."""
    count = sum(one.truncated for one in found)
    return {"x-omnitune-truncated": f"{count}/{len(found)}"} if count else {}
