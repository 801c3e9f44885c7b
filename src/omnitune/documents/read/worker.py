"""Reading documents in processes of their own, one a core, which a broken file may take down.

A worker is `python -m omnitune.documents.read.worker`: one JSON job a line in, one JSON answer a line out. PDFium
must not run in two threads, can crash on a malformed file and can hang in one; a process that dies or overruns its
time costs the document it was reading and nothing else. A plain subprocess is used rather than `multiprocessing`,
whose `fork` is unsafe after torch has started threads and whose `spawn` runs the caller's script again.
"""

import dataclasses
import importlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from omnitune.documents.read.pages import Description, Line, OutlineEntry, Page, Reader, Rendering
from omnitune.errors import DocumentError, ResourceError

Key = TypeVar("Key")

SECONDS_PER_PAGE = 60.0
"""A page of print takes 0.03 s; one that takes a thousand times as long is given up."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is asked: describe a document (no rendering), or make some of its pages.

    Attributes:
        reader: Module that reads this kind of document.
        path: The document.
        start: First page, from 0.
        stop: After the last page; 0 asks for the description.
        folder: Where page images go.
        rendering: How pages become images.
        patience: Seconds that it may take at least.
    """

    reader: str
    path: str
    start: int = 0
    stop: int = 0
    folder: str = ""
    patience: float = 0.0
    rendering: Rendering = dataclasses.field(default_factory=Rendering)


def answer(job: Job) -> Any:
    """Do a job: a `Description`, or a list of `Page`.

    Raises:
        DocumentError: The document cannot be read.
    """
    reader: Reader = importlib.import_module(job.reader)
    if not job.stop:
        return reader.describe(Path(job.path), job.rendering)
    return list(reader.pages(Path(job.path), job.start, job.stop, Path(job.folder), job.rendering))


class Worker:
    """One process that does jobs, started when there is one and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker

    def do(self, job: Job) -> Any:
        """A job's answer.

        Raises:
            DocumentError: The document cannot be read, crashes its reader or takes too long.
            ResourceError: The disk is full.
        """
        if self._process is None:
            self._process = self._start()
        seconds = max(SECONDS_PER_PAGE * max(1, job.stop - job.start), job.patience)
        overrun = threading.Event()
        timer = threading.Timer(seconds, self._give_up, (self._process, overrun))
        timer.start()
        line = _ask(self._process, json.dumps(dataclasses.asdict(job)))
        timer.cancel()
        if not line:
            why = f"reading it takes longer than {seconds:.0f} s" if overrun.is_set() else self._cause()
            self._stop()
            raise DocumentError(f"{Path(job.path).name}: {why}")
        return _parse(json.loads(line), described=not job.stop)

    def close(self) -> None:
        """End the process; the worker cannot be used again."""
        self._stop()
        self._complaints.close()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        self._complaints.truncate(0)
        return subprocess.Popen(
            [sys.executable, "-m", "omnitune.documents.read.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
        )

    def _cause(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._complaints.seek(0)
        said = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
        return f"its reader crashed (exit code {code}{': ' + said[-1] if said else ''})"

    @staticmethod
    def _give_up(process: subprocess.Popen[str], overrun: threading.Event) -> None:
        overrun.set()
        process.kill()


class Workers(Generic[Key]):
    """Some workers and the threads that wait for them."""

    def __init__(self, count: int) -> None:
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._all = [Worker() for _ in range(count)]
        for worker in self._all:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()
            worker._complaints.close()

    def run(self, jobs: Iterable[tuple[Key, Job]]) -> Iterator[tuple[Key, Any]]:
        """Answers as they come, with the keys of their jobs; a `DocumentError` is given back, not raised."""
        futures = {self._threads.submit(self._one, job): key for key, job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _one(self, job: Job) -> Any:
        worker = self._idle.get()
        try:
            return worker.do(job)
        except DocumentError as error:
            return error
        finally:
            self._idle.put(worker)


def _ask(process: subprocess.Popen[str], question: str) -> str:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return ""
    return process.stdout.readline()


def _parse(reply: dict[str, Any], *, described: bool) -> Any:
    if "document_error" in reply:
        raise DocumentError(reply["document_error"])
    if "resource_error" in reply:
        raise ResourceError(reply["resource_error"])
    return description(reply["answer"]) if described else [page(fields) for fields in reply["answer"]]


def description(fields: dict[str, Any]) -> Description:
    """A `Description` out of its JSON form."""
    outline = tuple(OutlineEntry(**entry) for entry in fields["outline"])
    return Description(**{**fields, "outline": outline, "marks": tuple(fields["marks"])})


def page(fields: dict[str, Any]) -> Page:
    """A `Page` out of its JSON form."""
    return Page(**{**fields, "lines": tuple(Line(**line) for line in fields["lines"])})


def serve(questions: Iterable[str], reply: Callable[[str], object]) -> None:
    """Answer jobs until there are no more."""
    for question in questions:
        fields = json.loads(question)
        job = Job(**{**fields, "rendering": Rendering(**fields["rendering"])})
        try:
            result = {"answer": _plain(answer(job))}
        except DocumentError as error:
            result = {"document_error": str(error)}
        except ResourceError as error:
            result = {"resource_error": str(error)}
        reply(json.dumps(result) + "\n")


def _plain(result: Description | Sequence[Page]) -> Any:
    return dataclasses.asdict(result) if isinstance(result, Description) else [dataclasses.asdict(p) for p in result]


def _main() -> None:
    def reply(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    serve(sys.stdin, reply)


if __name__ == "__main__":
    _main()
