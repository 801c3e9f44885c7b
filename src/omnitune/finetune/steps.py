"""Steps of a run, its checkpoints, and what it says: each step is done once and leaves a marker.

A marker holds a hash of the step's inputs and a list of the files it made.

A step is done when its marker carries the same hash and every file in the list still has its size, and arrays and
tables their checksum: a damaged number is measured like a true one. The marker is removed before the step begins and
written after its last file, so a run that was killed repeats at most one step.
"""

import logging
import os
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from omnitune import folders, io, runtime
from omnitune.errors import InputError
from omnitune.io import digest, read_json_or_none, write_json

logger = logging.getLogger(__name__)

Log = Callable[[str], None]
"""Takes one line for the user."""


_TICK = 1.0

_MADE = ("report.html", "report.json", "negatives.jsonl", "ladder.npz", "model", "retriever", "embeddings")
"""Names in a run's folder that a run replaces."""


@dataclass(frozen=True, slots=True)
class Done:
    """A finished step.

    Attributes:
        key: Hash of its inputs.
        seconds: Duration, tries that were killed included.
        result: JSON values for the steps after it.
        fresh: False where an earlier run did it.
    """

    key: str
    seconds: float
    result: Any
    fresh: bool


class Steps:
    """The steps of one run.

    Args:
        folder: The run's folder; markers are kept under `.steps` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.markers = folder / ".steps"
        self.done: dict[str, Done] = {}

    def holds(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Tell whether an earlier step with these inputs is done and its files are whole."""
        return self._marker(name, digest(inputs)) is not None

    def run(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[str], Any], *, makes: Iterable[Path] = ()
    ) -> Done:
        """Do a step unless it is done.

        Args:
            name: Of the step; unique in the run.
            inputs: All that its result depends on, as JSON values.
            work: Called with the hash of `inputs`; returns JSON values to keep.
            makes: Files and folders under the run's folder that it writes; one that it may leave out counts once it
                is there.
        """
        key = digest(inputs)
        marker = self._marker(name, key)
        if marker is None:
            io.remove_file(self._path(name))
            with self._clock(name, key) as spent:
                # New weights, as of a reranker's head, are drawn alike whatever this process did before the step: a
                # run that goes on after a kill has not done the steps before it.
                transformers.set_seed(0)
                result = work(key)
                seconds = spent()
            places = {path.relative_to(self.folder).as_posix(): path for path in makes}
            made = {place: _sizes(path) for place, path in places.items()}
            sums = {place: _sums(path) for place, path in places.items()}
            whole = {"key": key, "seconds": seconds, "result": result, "made": made, "sums": sums}
            write_json(self._path(name), whole)
            self._path(name).with_suffix(".clock").unlink(missing_ok=True)
            self.done[name] = Done(key, seconds, result, fresh=True)
        else:
            self.done[name] = Done(key, marker["seconds"], marker["result"], fresh=False)
        return self.done[name]

    def forget(self, name: str) -> None:
        """Have a step done again, whatever its marker says."""
        io.remove_file(self._path(name))

    @contextmanager
    def _clock(self, name: str, key: str) -> Iterator[Callable[[], float]]:
        """Measure a step, with the time that tries of it took which were killed.

        A killed process says nothing at its end, so a thread touches a file every second: its time of change is then
        the end.
        """
        path = self._path(name).with_suffix(".clock")
        old = read_json_or_none(path)
        before = 0.0
        if isinstance(old, dict) and old.get("key") == key:
            before = old["before"] + max(0.0, path.stat().st_mtime - old["began"])
        began = time.time()
        write_json(path, {"key": key, "before": before, "began": began})
        ended = threading.Event()

        def touch() -> None:
            with suppress(OSError):
                now = time.time_ns()  # the file system's own clock is some milliseconds behind
                os.utime(path, ns=(now, now))

        def tick() -> None:
            while not ended.wait(_TICK):
                touch()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield lambda: before + time.time() - began
        finally:
            ended.set()
            thread.join()
            touch()

    def _path(self, name: str) -> Path:
        return self.markers / f"{name}.json"

    def _marker(self, name: str, key: str) -> dict[str, Any] | None:
        """Read the marker of a step that is done, or None."""
        marker = read_json_or_none(self._path(name))
        if not isinstance(marker, dict) or not marker.keys() >= {"key", "seconds", "result", "made"}:
            return None
        if marker["key"] != key:
            return None
        for place, sizes in marker["made"].items():
            if not sizes.items() <= _sizes(self.folder / place).items():
                return None
            if place.endswith(".npz") and not _sound(self.folder / place):
                return None
            if not marker.get("sums", {}).get(place, {}).items() <= _sums(self.folder / place).items():
                return None
        return marker


@contextmanager
def open_run(out: Path, *, task: str) -> Iterator[Steps]:
    """Hold a run's folder for this process, and turn a full disk into one sentence.

    Raises:
        InputError: `out` holds what no run has made and this one would overwrite.
        ResourceError: The disk is full, and what was made before is kept; or another process works in `out`.
    """
    theirs = [name for name in _MADE if (out / name).exists()]
    if theirs and not (out / ".steps").is_dir():
        raise InputError(
            f"out: expected a new folder, or that of an earlier run, got {str(out)!r}, whose {theirs[0]} would be "
            "overwritten; name another folder"
        )
    with ExitStack() as stack:
        if runtime.rank() == 0:  # the other ranks belong to the same run
            stack.enter_context(folders.locked(out, task=task))
        stack.enter_context(io.full_disk_named(out))
        yield Steps(out)


def _sound(file: Path) -> bool:
    """Tell whether the checksums of an archive are right, where its size says nothing."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def _sizes(path: Path) -> dict[str, int]:
    """Bytes of a file, or of every file under a folder, by name; empty where nothing is.

    A README is left out: people edit the card of a model, and a new card is no reason to train again.
    """
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and one.name != "README.md"]
    return {one.relative_to(path).as_posix(): one.stat().st_size for one in files}


def _sums(path: Path) -> dict[str, int]:
    """Checksums of the arrays and tables that are a file, or lie under a folder, by name."""
    sums = {}
    for one in [path] if path.is_file() else path.rglob("*"):
        if one.suffix in (".npy", ".arrow") and one.is_file():
            made = 0
            with one.open("rb") as file:
                while block := file.read(1 << 20):
                    made = zlib.crc32(block, made)
            sums[one.relative_to(path).as_posix()] = made
    return sums


def checkpoint_folder(out: Path, key: str, log: Log) -> Path:
    """Make the folder of a training's checkpoints, named by the hash of its inputs; leave those of others alone."""
    folder = out / "checkpoints" / key
    folder.mkdir(parents=True, exist_ok=True)
    for other in sorted(folder.parent.iterdir()):
        size = sum(path.stat().st_size for path in other.rglob("*") if path.is_file())
        if other != folder and size:
            log(
                f"{other}: checkpoints of a training with other settings ({size / 1e6:,.0f} MB) are kept; "
                "delete them when you no longer need them"
            )
    return folder


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a training that is finished, and `checkpoints/` where no other training has some."""
    if runtime.rank() != 0:
        return
    folders.discard(folder.parent, [folder.name])


def announce(
    what: str, items: Sequence[Any], work: Callable[[list[Any]], object], log: Log, *, sample: int = 8
) -> None:
    """Say how long `work` on all items will take, by timing it on a few of them once it is warm.

    Args:
        what: Start of the line, such as `"Encoding 162 pages"`.
        items: Everything that will be worked on.
        work: Called with the sample.
        log: Called with the line.
        sample: Items to time.
    """
    few = list(items[:sample])
    work(few[:1])
    timed = few[1:] or few
    started = time.perf_counter()
    work(timed)
    each = (time.perf_counter() - started) / len(timed)
    log(f"{what}: about {runtime.about(each * len(items))} ({each:.2g} s each)")
