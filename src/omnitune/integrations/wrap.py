"""Parts that adapters share: a model or its path, and texts that are texts whatever they look like."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from omnitune.errors import InputError
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import CrossEncoder

M = TypeVar("M", SentenceTransformer, CrossEncoder)


def opened(model: M | str | Path, kind: type[M]) -> M:
    """Take a model of a family, or open the one in a directory or repository.

    Raises:
        InputError: It is something else.
    """
    if isinstance(model, str | Path):
        return kind(str(model))
    if not isinstance(model, kind):
        raise InputError(f"model: expected an omnitune.{kind.__name__} or its path, got {type(model).__name__}")
    return model


def encode_texts(model: SentenceTransformer, texts: Sequence[str], role: str, **options: Any) -> Any:
    """Embed texts as queries or documents `(texts, dim)`.

    A document that reads like a path is text still: a framework hands over what people wrote, and no file is opened.

    Args:
        model: The encoder.
        texts: Texts.
        role: "query" or "document".
        **options: For `encode_query` or `encode_document`.
    """
    verb = model.encode_query if role == "query" else model.encode_document
    media = set(model.modalities) - {"text"}
    items: list[Any] = [{"text": text} for text in texts] if media and role != "query" else list(texts)
    if not items:
        return np.zeros((0, model.get_embedding_dimension() or 0), dtype=np.float32)
    return verb(items, **{"show_progress_bar": False, **options})


class EmbedsWords:
    """The backend that topic models ask for: texts and words embedded alike, so that they share a space.

    Args:
        model: A model, or its path.
        **encode_kwargs: For `encode`, such as `prompt_name`.
    """

    embedding_model: SentenceTransformer

    def __init__(self, model: SentenceTransformer | str | Path, **encode_kwargs: Any) -> None:
        super().__init__(embedding_model=opened(model, SentenceTransformer))  # type: ignore[call-arg]  # of the backend beside it
        self.encode_kwargs = encode_kwargs

    def embed(self, documents: Sequence[str], verbose: bool = False) -> Any:
        """Embed texts `(texts, dim)`."""
        items: list[Any] = [str(one) for one in documents]
        if set(self.embedding_model.modalities) - {"text"}:
            items = [{"text": one} for one in items]
        return self.embedding_model.encode(items, **{"show_progress_bar": verbose, **self.encode_kwargs})
