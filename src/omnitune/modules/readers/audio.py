"""Recordings to what is said in them, so that a text encoder serves speech too: audio in, text out, no weights.

The embedded engine is PocketSphinx, whose wheel carries an English model of some hundred thousand words. It takes about
as long as the recording, and misses many words, in some voices most: a way to find a recording by, not to read it.
A speech model of `transformers` is no reader but a tower of its own: `Transformer` with Whisper, in place of this.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, ClassVar, Protocol

import numpy as np

from omnitune import runtime
from omnitune.errors import InputError
from omnitune.inputs.sampling import Sampling
from omnitune.modules.readers.readings import KeepingReader
from omnitune.types import Modality

RATE = 16_000
"""Hertz that the models of speech recognisers were trained at."""

SHORTEST = 0.1
"""Seconds below which a recording holds no word."""

MARGIN = 0.5
"""Seconds of quiet noise put before and after: PocketSphinx estimates the channel from what is no speech.
With it, `LOUDEST` and `NOISE`, 22 of 33 words of one synthetic voice came through, without 9; another gained less."""

LOUDEST, NOISE = 0.7, 0.002
"""Peak to which speech is scaled, and the standard deviation of the noise that is added, of a full scale of 1."""


class Recogniser(Protocol):
    """Protocol of a speech recogniser: one instance serves one thread at a time."""

    @staticmethod
    def identity() -> str:
        """Name and version: readings of another one are not reused."""

    def __init__(self, *, language: str) -> None: ...

    def text(self, samples: np.ndarray) -> str:
        """The words of speech `(samples,)`, float32, at `RATE`."""


class PocketSphinx:
    """PocketSphinx with the model that its wheel carries.

    Raises:
        InputError: The wheel carries no model of that language.
    """

    @staticmethod
    def identity() -> str:
        """Version of the wheel, which decides the version of the model."""
        runtime.require("pocketsphinx", extra="speech")
        return f"pocketsphinx-{version('pocketsphinx')}"

    def __init__(self, *, language: str) -> None:
        if language != "en-us":
            raise InputError(f'language: expected "en-us", the model that pocketsphinx carries, got {language!r}')
        pocketsphinx = runtime.require("pocketsphinx", extra="speech")
        self._decoder = pocketsphinx.Decoder(samprate=RATE, cmn="batch", loglevel="FATAL")

    def text(self, samples: np.ndarray) -> str:
        """The most likely words, in lower case."""
        self._decoder.reinit_feat()  # or a reading would depend on the recordings before it
        self._decoder.start_utt()
        self._decoder.process_raw((samples * 32767).astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return "" if found is None else str(found.hypstr)


RECOGNISERS: dict[str, type[Recogniser]] = {"pocketsphinx": PocketSphinx}
"""Engines by the name that a configuration gives; another one is a class with `Recogniser`'s methods."""


class AudioReader(KeepingReader):
    """Reads what is said in recordings, for the input module after it; texts pass unchanged.

    Args:
        engine: Name in `RECOGNISERS`.
        language: Language of the speech.

    Raises:
        InputError: There is no such engine.

    Example:
        >>> hearing = SentenceTransformer(modules=[AudioReader(), *model])
        >>> second = {"array": np.zeros(16_000, np.float32), "sampling_rate": 16_000}
        >>> hearing.modalities, hearing.encode(second).shape
        (['text', 'audio'], (384,))
    """

    config_keys: ClassVar[list[str]] = ["engine", "language"]
    noun: ClassVar[str] = "recording"
    reads: ClassVar[dict[Modality, Modality]] = {"audio": "text"}

    def __init__(self, engine: str = "pocketsphinx", language: str = "en-us") -> None:
        super().__init__()
        if engine not in RECOGNISERS:
            raise InputError(f"engine: expected one of {sorted(RECOGNISERS)}, got {engine!r}")
        self.engine = engine
        self.language = language

    def sampling(self, modality: Modality, **kwargs: Any) -> Sampling:  # noqa: ARG002
        """The rate of speech recognisers."""
        return Sampling(rate=RATE)

    def engines(self) -> Mapping[str, type[Recogniser]]:
        """See `RECOGNISERS`."""
        return RECOGNISERS

    def text_of(self, engine: Recogniser, item: np.ndarray) -> str:
        """Recognise the words of a waveform; a silent one has none."""
        peak = float(np.abs(item).max(initial=0.0))
        if len(item) < SHORTEST * RATE or not peak:
            return ""
        margin = round(MARGIN * RATE)
        noise = np.random.default_rng(0).normal(0, NOISE, len(item) + 2 * margin).astype(np.float32)
        return engine.text(np.pad(item * (LOUDEST / peak), margin) + noise).strip()
