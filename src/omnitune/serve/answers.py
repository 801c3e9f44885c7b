"""Answers in JSON, errors in OpenAI's shape, and counts of answers in the text form of Prometheus."""

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from omnitune.errors import InputError
from omnitune.strict_json import json_text

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Answer(JSONResponse):
    """An answer in JSON that every client reads; numbers that are not finite are an error of the server."""

    def render(self, content: Any) -> bytes:
        """Make the body.

        Raises:
            HTTPException: A number is not finite.
        """
        try:
            return json_text(content, "answer", separators=(",", ":")).encode()
        except InputError as error:
            raise HTTPException(500, f"{error}; the model or the index gave it, not the request") from error


def error_response(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Answer with an error as OpenAI's API words it."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Answer({"error": error}, status, headers=dict(headers or {}))


class Metrics:
    """Answers by route and status, and their seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: Counter[str] = Counter()

    def add(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        with self._lock:
            self._requests[route, status] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]  # a Counter adds any number

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All counts, and other values by name with their type."""
        lines = ["# TYPE omnitune_requests_total counter"]
        with self._lock:
            for (route, status), count in sorted(self._requests.items()):
                lines.append(f'omnitune_requests_total{{route="{route}",status="{status}"}} {count}')
            lines.append("# TYPE omnitune_request_seconds_total counter")
            for route, seconds in sorted(self._seconds.items()):
                lines.append(f'omnitune_request_seconds_total{{route="{route}"}} {seconds:.6f}')
        for name, (kind, value) in gauges.items():
            lines += [f"# TYPE {name} {kind}", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"
