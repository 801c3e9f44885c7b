"""The embedded model: it needs no hub and no GPU, and `SentenceTransformer("embedded")` is it.

MiniLM for text, and for page images, recordings or clips a frozen reader (`TextReader`, `AudioReader`, `ClipReader`) in
front of the same MiniLM. Its weights come from a pip package (`places.minilm_folder`). Late interaction takes
its token vectors; other families take the word for MiniLM's directory.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from omnitune.modules import AudioReader, ClipReader, Normalize, Pooling, Router, TextReader, Transformer
from omnitune.modules.readers.readings import KeepingReader
from omnitune.places import minilm_folder

_TOKENS = 256
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""One epoch over a few hundred pages does not overfit; without dropout, equal pages of a batch are encoded once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A reader in front of MiniLM.

    Attributes:
        reader: Class that turns an item into text.
        language: Name of its argument for the language.
        shown: Name of such a reader in a sentence.
        packages: Packages that it needs, and the extra that has each.
    """

    reader: Callable[..., KeepingReader | ClipReader]
    language: str
    shown: str
    packages: Mapping[str, str]


READERS: dict[str, Route] = {
    "image": Route(reader=TextReader, language="language", shown="a page reader", packages={"tesserocr": "ocr"}),
    "audio": Route(
        reader=AudioReader, language="language", shown="a speech recogniser", packages={"pocketsphinx": "speech"}
    ),
    "video": Route(
        reader=ClipReader,
        language="ocr_language",
        shown="a reader of frames and speech",
        packages={"tesserocr": "ocr", "pocketsphinx": "speech"},
    ),
}
"""Reader of each modality."""


def embedded_modules(modalities: Sequence[str] | None = None, language: str | None = None) -> list[nn.Module]:
    """Make the modules: a router with a route for text and one for each modality.

    Args:
        modalities: Of "image", "audio" and "video"; None takes those whose packages are installed.
        language: Language of the pages, or of the speech, as the reader names it; None takes English.

    Raises:
        MissingExtraError: The package of the extra `demo` is not installed.
        CheckpointError: The packaged weights are not the published ones.
    """
    if modalities is None:
        modalities = [
            name
            for name, route in READERS.items()
            if all(importlib.util.find_spec(package) is not None for package in route.packages)
        ]
    text = text_modules()
    routes = {name: [reader_of(name, language), *text] for name in modalities}
    return [Router({"text": text, **routes}, default_route="text")]


def reader_of(modality: str, language: str | None = None) -> KeepingReader | ClipReader:
    """Make the reader of a modality."""
    route = READERS[modality]
    return route.reader() if language is None else route.reader(**{route.language: language})


def text_modules() -> list[nn.Module]:
    """Make MiniLM for texts alone.

    Raises:
        MissingExtraError: The package of the extra `demo` is not installed.
        CheckpointError: The packaged weights are not the published ones.
    """
    transformer = Transformer(str(minilm_folder()), max_seq_length=_TOKENS, config_kwargs=_NO_DROPOUT)
    return [transformer, Pooling(transformer.get_embedding_dimension(), "mean"), Normalize()]
