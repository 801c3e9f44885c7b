"""Steps of a run that are done once: each leaves a marker with a hash of what it depends on.

A step whose marker carries the same hash is not done again; one whose inputs changed is. The marker is written after
the step's last file, so a run that was killed repeats at most the step it was in.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnitune.io import digest, read_json_or_none, write_json


@dataclass(frozen=True, slots=True)
class Done:
    """A finished step: hash of its inputs, duration, what it left for the steps after it, and whether it ran now."""

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

    def pending(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether `run` would do this step."""
        return self._marker(name, digest(inputs)) is None

    def run(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[str], Any], *, makes: Iterable[Path] = ()
    ) -> Done:
        """Do a step unless it is done.

        Args:
            name: Of the step; unique in the run.
            inputs: All that its result depends on, as JSON values.
            work: Called with the hash of `inputs`; returns JSON values to keep.
            makes: Files or folders that must be there for the step to count as done.
        """
        key = digest(inputs)
        kept = self._marker(name, key)
        if kept is not None and all(path.exists() for path in makes):
            self.done[name] = Done(key, kept["seconds"], kept["result"], fresh=False)
            return self.done[name]
        self._path(name).unlink(missing_ok=True)
        started = time.perf_counter()
        result = work(key)
        seconds = time.perf_counter() - started
        write_json(self._path(name), {"key": key, "seconds": seconds, "result": result})
        self.done[name] = Done(key, seconds, result, fresh=True)
        return self.done[name]

    def _path(self, name: str) -> Path:
        return self.markers / f"{name}.json"

    def _marker(self, name: str, key: str) -> dict[str, Any] | None:
        marker = read_json_or_none(self._path(name))
        whole = isinstance(marker, dict) and marker.keys() >= {"key", "seconds", "result"}
        return marker if whole and marker["key"] == key else None
