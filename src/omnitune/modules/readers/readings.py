"""Readers that keep what they read: media in, text out, each item once.

A reading costs far more than encoding its text. So readings are kept by the item's content, the engine and its
settings, in memory and under `runtime.cache_folder()`. Unread items are read on all cores by threads, each with an
engine of its own.
"""

import json
import logging
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from omnitune import io, runtime
from omnitune.errors import ResourceError
from omnitune.inputs.fingerprint import fingerprint
from omnitune.modules.base import InputModule
from omnitune.types import Features, Modality

logger = logging.getLogger(__name__)

MANY = 20
"""Unread items above which a progress bar is shown."""

REMEMBERED = 50_000
"""Readings kept in memory, some kilobytes each."""


class KeepingReader(InputModule):
    """A reader of one modality whose engines are expensive; texts pass unchanged.

    Attributes:
        noun: What one item is called, for the progress bar.
        engine: Name of the engine, in `engines()`.
    """

    save_in_root: ClassVar[bool] = False
    reads: ClassVar[dict[Modality, Modality]]
    noun: ClassVar[str]
    engine: str

    @property
    def modalities(self) -> list[Modality]:
        """Modalities that are read."""
        return list(self.reads)

    @abstractmethod
    def engines(self) -> Mapping[str, Any]:
        """Engines by name: classes with `identity()`, made with `settings()`."""

    @abstractmethod
    def text_of(self, engine: Any, item: Any) -> str:
        """The text of one loaded item, which is its own."""

    def details_of(self, engine: Any) -> dict[str, Any]:  # noqa: ARG002
        """JSON values that are kept beside the text of the item that an engine read last."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Settings that an engine is made with; readings with others are not reused."""
        return {key: value for key, value in self.get_config_dict().items() if key != "engine"}

    def forward(self, features: Features, **kwargs: Any) -> Features:  # noqa: ARG002
        """`features` as they are."""
        return features

    def read(self, items: Sequence[Any]) -> list[str]:
        """Read the text of loaded items, in order; empty for one without text.

        Raises:
            MissingExtraError: The engine's packages are not installed.
            InputError: There is no model for the language.
            ResourceError: The engine does not start.
        """
        if not items:
            return []
        (kind,) = self.reads
        folder = self._folder()
        keys = [fingerprint(item, kind) for item in items]
        texts: dict[str, str] = {}
        unread: dict[str, Any] = {}
        for key, item in zip(keys, items, strict=True):
            if key in texts or key in unread:
                continue
            known = _recall(folder, key)
            if known is None:
                unread[key] = item
            else:
                texts[key] = known
        texts |= dict(zip(unread, self._read_unread(folder, unread), strict=True))
        return [texts[key] for key in keys]

    def readings(self, items: Sequence[Any], *, holding: str) -> list[dict[str, Any]]:
        """Return what is kept of loaded items, in order; read anew where an earlier version kept less.

        Args:
            items: Loaded items.
            holding: Name of the value that must be there; an empty list stands in where the cache cannot be written.
        """
        self.read(items)
        (kind,) = self.reads
        folder, found = self._folder(), []
        for item in items:
            key = fingerprint(item, kind)
            kept = io.read_json_or_none(_place(folder, key))
            if not isinstance(kept, dict) or holding not in kept:
                for _ in self._read_unread(folder, {key: item}):
                    kept = io.read_json_or_none(_place(folder, key))
            found.append(kept if isinstance(kept, dict) and holding in kept else {holding: []})
        return found

    def _folder(self) -> Path:
        """Return the folder of readings by this engine with these settings."""
        settings = "-".join(str(value).replace("/", "-") for value in self.settings().values())
        return runtime.cache_folder() / "readings" / f"{self.engines()[self.engine].identity()}-{settings}"

    def _read_unread(self, folder: Path, unread: dict[str, Any]) -> Iterator[str]:
        if not unread:
            return

        def read(key: str) -> str:
            with self._borrowed() as engine:
                text = self.text_of(engine, unread[key])
                details = {"text": text, **self.details_of(engine)}
            _remember(folder, key, details["text"])
            path = _place(folder, key)
            try:
                with io.writing(path) as temporary:
                    temporary.write_text(json.dumps(details, ensure_ascii=False), encoding="utf-8")
            except (OSError, ResourceError) as error:
                logger.warning("a reading cannot be kept for the next run: %s: %s", path, error)
            return text

        workers = min(runtime.cores(), len(unread))
        show = None if len(unread) > MANY else False
        with (
            runtime.progress_bar(label=f"Reading {self.noun}s", total=len(unread), show=show, unit=self.noun) as bar,
            ThreadPoolExecutor(workers, thread_name_prefix="reader") as pool,
        ):
            for text in pool.map(read, unread):
                bar.update()
                yield text

    @contextmanager
    def _borrowed(self) -> Iterator[Any]:
        """An engine that nobody else uses, started if none is idle."""
        settings = self.settings()
        idle = _idle.setdefault((self.engine, *settings.values()), [])
        try:
            engine = idle.pop()
        except IndexError:
            engine = self.engines()[self.engine](**settings)
        yield engine
        idle.append(engine)  # one that failed is dropped


_idle: dict[tuple[Any, ...], list[Any]] = {}
"""Engines that nobody uses now. Here and not in the module, which is copied and sent to other processes."""

_remembered: dict[tuple[Path, str], str] = {}
_remembering = threading.Lock()


def _place(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key[2:]}.json"


def _recall(folder: Path, key: str) -> str | None:
    """The reading that is kept under `key`, or None; one that is damaged counts as none."""
    known = _remembered.get((folder, key))  # in one step, as another thread may make room in between
    if known is not None:
        return known
    kept = io.read_json_or_none(_place(folder, key))
    text = kept.get("text") if isinstance(kept, dict) else None
    if not isinstance(text, str):
        return None
    _remember(folder, key, text)
    return text


def _remember(folder: Path, key: str, text: str) -> None:
    with _remembering:
        while len(_remembered) >= REMEMBERED:
            del _remembered[next(iter(_remembered))]
        _remembered[folder, key] = text
