"""Chat completions of a model behind an OpenAI-compatible API: many at once, tried again, paid for once.

An answer is kept on disk under a hash of all that was asked, so the same question is never sent twice, whatever stopped
the run in between. Only the standard library speaks HTTP here.
"""

import json
import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from omnitune.errors import EndpointError, ResourceError
from omnitune.io import digest, read_json_or_none, write_json

logger = logging.getLogger(__name__)

PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that say: try again later."""

LONGEST_WAIT = 60.0
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Text that the model wrote, the tokens that the server counted, and whether it came from disk.

    `counted` is False where the server does not say how many tokens it used.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = True
    kept: bool = False


class _Passing(Exception):
    """A failure that may pass; `wait` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model behind an address.

    Attributes:
        url: Up to and including the version: `http://localhost:8000/v1`.
        key: Sent as a bearer token; "" sends none.
        model: Name of the model there.
        cache: Folder of the answers.
        concurrency: Questions under way at once.
        attempts: Tries of one question.
        timeout: Seconds to wait for an answer.
        backoff: Seconds before the second try; doubled each time.
    """

    url: str
    key: str
    model: str
    cache: Path
    concurrency: int = 8
    attempts: int = 6
    timeout: float = 120.0
    backoff: float = 1.0

    def known(self, question: Mapping[str, Any]) -> bool:
        """Tell whether the answer lies on disk."""
        return _kept(self._place(question)) is not None

    def ask_all(self, questions: Sequence[Mapping[str, Any]], bodies: Sequence[Any]) -> Iterator[Answer]:
        """The answers, in order, as they come.

        Args:
            questions: What identifies each question: JSON values, media by their hash.
            bodies: For each a function that makes the request's `messages` and settings, called when it is sent.

        Raises:
            EndpointError: The server refuses, or does not answer after all attempts; answers so far are kept.
        """
        over = threading.Event()
        with ThreadPoolExecutor(self.concurrency) as pool:
            waiting = [pool.submit(self.ask, *one, over) for one in zip(questions, bodies, strict=True)]
            try:
                for future in waiting:
                    yield future.result()
            finally:  # after an error or Ctrl-C, answers under way are kept, and nothing is tried again
                over.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def ask(self, question: Mapping[str, Any], body: Any, over: threading.Event | None = None) -> Answer:
        """One answer, from disk or from the server.

        Args:
            question: What identifies it.
            body: Makes the request.
            over: Set when nobody waits for the answer any more; it is then not tried again.

        Raises:
            EndpointError: The server refuses, or does not answer after all attempts.
        """
        over = threading.Event() if over is None else over
        place = self._place(question)
        if (kept := _kept(place)) is not None:
            return kept
        for attempt in range(1, self.attempts + 1):
            try:
                answer = self._post({"model": self.model, **body()})
            except _Passing as failure:
                wait = self.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
                wait = min(LONGEST_WAIT, wait if failure.wait is None else failure.wait)
                if attempt == self.attempts or over.wait(wait):
                    raise EndpointError(
                        f"{self.url}: expected an answer of {self.model!r}, got none in {attempt} attempts, the last: "
                        f"{failure}; answers so far are kept: run the same command again"
                    ) from failure
                logger.info("%s: attempt %d failed: %s", self.url, attempt, failure)
            else:
                facts = {"text": answer.text, "prompt_tokens": answer.prompt_tokens,
                         "completion_tokens": answer.completion_tokens, "counted": answer.counted}  # fmt: skip
                try:
                    write_json(place, facts)
                except (OSError, ResourceError) as error:  # what was paid for serves this run at least
                    logger.warning("an answer cannot be kept for the next run: %s: %s", place, error)
                return answer
        raise AssertionError("the last attempt returns or raises")

    def _place(self, question: Mapping[str, Any]) -> Path:
        key = digest([self.url, self.model, question])
        return self.cache / key[:2] / f"{key}.json"

    def _post(self, body: Mapping[str, Any]) -> Answer:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers, method="POST")  # noqa: S310
        try:
            with urlopen(request, timeout=self.timeout) as reply:  # noqa: S310 - the user names the address
                said = json.loads(reply.read())
                if not isinstance(said, dict):
                    raise TypeError(f"expected an object, got {str(said)[:80]}")
                usage = said.get("usage") or {}
                return Answer(
                    text=said["choices"][0]["message"]["content"] or "",
                    prompt_tokens=usage.get("prompt_tokens", 0),
                    completion_tokens=usage.get("completion_tokens", 0),
                    counted=bool(usage),
                )
        except HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            if error.code in PASSING:
                after = error.headers.get("Retry-After", "")  # seconds; a date is not waited for
                wait = float(after) if after.replace(".", "", 1).isdigit() else None
                raise _Passing(f"{error.code} {said}", wait) from error
            raise EndpointError(
                f"{self.url}: expected an answer of {self.model!r}, got {error.code} {error.reason}: {said}; "
                "check OPENAI_BASE_URL, OPENAI_API_KEY and the model's name"
            ) from error
        except (URLError, TimeoutError, ConnectionError, HTTPException) as error:
            raise _Passing(str(error) or type(error).__name__) from error
        except (json.JSONDecodeError, KeyError, IndexError, TypeError) as error:
            raise _Passing(f"an answer that is no chat completion ({type(error).__name__}: {error})") from error


def _kept(place: Path) -> Answer | None:
    """The answer in a file, or None; one that is damaged is asked for again."""
    facts = read_json_or_none(place)
    try:
        return Answer(**facts, kept=True) if isinstance(facts["text"], str) else None
    except (TypeError, KeyError):
        return None
