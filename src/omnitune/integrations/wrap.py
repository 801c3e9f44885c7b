"""Parts that adapters share: a model or its path, and texts that are texts whatever they look like."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnitune.errors import InputError
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import CrossEncoder


def encoder_of(model: SentenceTransformer | str | Path) -> SentenceTransformer:
    """Take a dense encoder, or open the one in a directory or repository.

    Raises:
        InputError: It is something else.
    """
    if isinstance(model, str | Path):
        return SentenceTransformer(str(model))
    if not isinstance(model, SentenceTransformer):
        raise InputError(f"model: expected an omnitune.SentenceTransformer or its path, got {type(model).__name__}")
    return model


def reranker_of(model: CrossEncoder | str | Path) -> CrossEncoder:
    """Take a reranker, or open the one in a directory or repository.

    Raises:
        InputError: It is something else.
    """
    if isinstance(model, str | Path):
        return CrossEncoder(str(model))
    if not isinstance(model, CrossEncoder):
        raise InputError(f"model: expected an omnitune.CrossEncoder or its path, got {type(model).__name__}")
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
