"""Read documents in processes of their own, one a core, which a broken file may take down.

A worker is `python -m omnitune.documents.read.worker`: one JSON job a line in, one JSON answer a line out, a line a
page. PDFium must not run in two threads, can crash on a malformed file, can hang in one and can ask for all memory. A
process that dies, overruns the time of a page or reaches its limit of memory costs the page it was reading: the job
goes on behind that page in a fresh process. A plain subprocess is used rather than `multiprocessing`, whose `fork` is
unsafe after torch has started threads and whose `spawn` runs the caller's script again. Each is a process group of its
own, which is killed as a whole: LibreOffice runs in it. A worker whose caller was killed ends its group itself.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from omnitune.documents.read.pages import Description, Line, LostPage, OutlineEntry, Page, Reader, Rendering, Word
from omnitune.errors import DocumentError, ResourceError
from omnitune.runtime import end_group

Key = TypeVar("Key")

SECONDS_PER_PAGE = 60.0
"""A page of print takes 0.03 s; one that takes a thousand times as long is given up."""

MEMORY = 2 << 30
"""Bytes that a worker may allocate: a page of print takes 0.06 GB, a scan of A3 at 600 dpi 0.6 GB."""

MOST_KILLED = 3
"""Pages of one document that may take down their reader; after them the rest of the document is not tried."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A question to a worker: describe a document (no rendering), or make some of its pages.

    Attributes:
        reader: Module that reads this kind of document.
        path: The document.
        start: First page, from 0.
        stop: After the last page; 0 asks for the description.
        folder: Where page images go.
        rendering: How pages become images.
        patience: Seconds that the description, or a page, may take at least.
        memory: Bytes that the worker may allocate.
    """

    reader: str
    path: str
    start: int = 0
    stop: int = 0
    folder: str = ""
    patience: float = 0.0
    memory: int = MEMORY
    rendering: Rendering = dataclasses.field(default_factory=Rendering)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PagesRead:
    """The pages of a job that could be read, in order, and those that could not."""

    pages: list[Page] = dataclasses.field(default_factory=list)
    lost: list[LostPage] = dataclasses.field(default_factory=list)


class _KilledError(DocumentError):
    """The process of a worker ended while it read: it crashed, took too long or needed too much memory."""


class Worker:
    """One process that does jobs, started when there is one and again after it has died.

    Args:
        killed: Counts by document how often a page of it took down its reader; workers of one pool share it.
    """

    def __init__(self, killed: Counter[str] | None = None) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._killed: Counter[str] = Counter() if killed is None else killed
        self._closed = False

    def do(self, job: Job) -> Description | PagesRead:
        """Answer a job.

        Raises:
            DocumentError: The document cannot be described; or it is cut into segments and one of them is missing.
            ResourceError: The disk is full.
        """
        if not job.stop:
            return [description(fields) for fields in self._answers(job)][0]
        read, start = PagesRead(), job.start
        while start < job.stop:
            if self._killed[job.path] >= MOST_KILLED:
                why = f"not tried, because {MOST_KILLED} pages took down their reader"
                read.lost.extend(
                    LostPage(number=at + 1, reason=f"page {at + 1}: {why}") for at in range(start, job.stop)
                )
                break
            try:
                for fields in self._answers(dataclasses.replace(job, start=start)):
                    read.pages.append(page(fields))
                    start += 1
                if start < job.stop:
                    kind = "segments by its times" if job.rendering.boundaries else "pages by its own count"
                    raise DocumentError(f"it has {job.stop} {kind}, and only {start} can be read")
            except DocumentError as error:
                if isinstance(error, _KilledError) and not self._closed:
                    self._killed[job.path] += 1
                if job.rendering.boundaries or self._closed:  # segments are read in one go from the start
                    raise
                reason = str(error).removeprefix(f"{Path(job.path).name}: ")
                named = reason if reason.startswith("page ") else f"page {start + 1}: {reason}"
                read.lost.append(LostPage(number=start + 1, reason=named))
                start += 1
        return read

    def close(self, *, at_once: bool = False) -> None:
        """End the process; the worker cannot be used again.

        Args:
            at_once: Whether not to wait for the job that it does.
        """
        self._closed = True
        process = self._process
        if process is not None and at_once:
            end_group(process)
        if not at_once:
            self._stop()
            self._complaints.close()

    def _answers(self, job: Job) -> Iterator[dict[str, Any]]:
        """The fields of every answer to a job as they come; each has its own deadline."""
        if self._closed:
            raise _KilledError("its reader was stopped")
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died while idle: the empty answer says so
            process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
            process.stdin.flush()
        seconds = max(SECONDS_PER_PAGE, job.patience)
        while True:
            overrun = threading.Event()
            timer = threading.Timer(seconds, _give_up, (process, overrun))
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            if not line.endswith("\n"):
                why = f"reading it takes longer than {seconds:.0f} s" if overrun.is_set() else self._cause(job)
                self._stop()
                raise _KilledError(f"{Path(job.path).name}: {why}")
            reply = json.loads(line)
            if "document_error" in reply:
                raise DocumentError(reply["document_error"])
            if "resource_error" in reply:
                raise ResourceError(reply["resource_error"])
            if "answer" not in reply:
                return
            yield reply["answer"]

    def _stop(self) -> None:
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        self._complaints.seek(0)
        self._complaints.truncate()
        process = subprocess.Popen(
            [sys.executable, "-m", "omnitune.documents.read.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        assert process.stdout is not None
        process.stdout.readline()  # it is ready: starting Python on a busy machine is no page's time
        return process

    def _cause(self, job: Job) -> str:
        """Say why the process ended, by its exit code and its last words."""
        assert self._process is not None
        code = self._process.wait()
        self._complaints.seek(0)
        said = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
        last = re.sub(r"^[\w.]+(?:Error|Exception): ", "", said[-1]) if said else ""
        # PDFium aborts without a word where an allocation is refused; glibc says something where memory is corrupt.
        # The peak that the system counts for a child is no help: it begins with the size of the parent.
        if (code == -signal.SIGABRT and not last) or last.startswith(("MemoryError", "what():  std::bad_alloc")):
            return f"reading it takes more than {job.memory / 2**30:g} GB of memory"
        named = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"its reader crashed ({named}{': ' + last if last else ''})"


class Workers(Generic[Key]):
    """Some workers and the threads that wait for them."""

    def __init__(self, count: int) -> None:
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        killed: Counter[str] = Counter()
        self._all = [Worker(killed) for _ in range(count)]
        for worker in self._all:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:  # an interrupted run does not wait for a page that hangs
            for worker in self._all:
                worker.close(at_once=True)
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()

    def run(self, jobs: Iterable[tuple[Key, Job]]) -> Iterator[tuple[Key, Description | PagesRead | DocumentError]]:
        """Answers as they come, with the keys of their jobs; a `DocumentError` is given back, not raised."""
        futures = {self._threads.submit(self._one, job): key for key, job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _one(self, job: Job) -> Description | PagesRead | DocumentError:
        worker = self._idle.get()
        try:
            return worker.do(job)
        except DocumentError as error:
            return error
        finally:
            self._idle.put(worker)


def _give_up(process: subprocess.Popen[str], overrun: threading.Event) -> None:
    overrun.set()
    end_group(process)


def description(fields: dict[str, Any]) -> Description:
    """Build a `Description` out of its JSON form."""
    outline = tuple(OutlineEntry(**entry) for entry in fields["outline"])
    return Description(**{**fields, "outline": outline, "boundaries": tuple(fields["boundaries"])})


def page(fields: dict[str, Any]) -> Page:
    """Build a `Page` out of its JSON form."""
    lines = tuple(Line(**line) for line in fields["lines"])
    words = tuple(Word(text=word["text"], box=tuple(word["box"])) for word in fields["words"])
    return Page(**{**fields, "lines": lines, "words": words})


# --- in the process ---------------------------------------------------------------------------------------------------


def answers(job: Job) -> Iterator[Description | Page]:
    """Do a job: one `Description`, or its pages one after another.

    Raises:
        DocumentError: The document, or its next page, cannot be read.
    """
    reader: Reader = importlib.import_module(job.reader)
    if job.stop:
        yield from reader.pages(Path(job.path), job.start, job.stop, Path(job.folder), job.rendering)
    else:
        yield reader.describe(Path(job.path), job.rendering)


def serve(questions: Iterable[str], reply: Callable[[str], object]) -> None:
    """Answer jobs until there are no more."""
    for question in questions:
        fields = json.loads(question)
        job = Job(**{**fields, "rendering": Rendering(**fields["rendering"])})
        limit_memory(job.memory)
        end = {}
        try:
            for answer in answers(job):
                reply(json.dumps({"answer": dataclasses.asdict(answer)}) + "\n")
        except DocumentError as error:
            end = {"document_error": str(error)}
        except ResourceError as error:
            end = {"resource_error": str(error)}
        reply(json.dumps(end) + "\n")


def limit_memory(size: int) -> None:
    """Let this process allocate at most `size` bytes, where the system can say so (Linux)."""
    if sys.platform == "win32":
        return
    import resource

    # Data rather than address space: address space also counts reserves of the allocator, 64 MB a thread.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.getrlimit(resource.RLIMIT_DATA)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with(caller: int) -> None:
    """End this group soon after the process that started it: the end of its input is not seen while a file is read."""
    while os.getppid() == caller:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def _main() -> None:
    # A C library that prints something must not print it among the answers.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(line: str) -> None:
        channel.write(line)
        channel.flush()

    if os.name == "posix":
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    reply("{}\n")
    serve(sys.stdin, reply)


if __name__ == "__main__":
    _main()
