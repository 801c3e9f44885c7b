"""LangChain: embeddings and a cross encoder.

>>> from omnitune.integrations.langchain import OmnituneEmbeddings
>>> store = InMemoryVectorStore(OmnituneEmbeddings("run/model"))
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.embeddings import Embeddings

from omnitune.integrations.wrap import encode_texts, opened
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import CrossEncoder


class OmnituneEmbeddings(Embeddings):  # type: ignore[misc]  # LangChain is not type-checked here
    """Embeds queries and documents with the model's own prompts.

    Args:
        model: A model, or its path.
        **encode_kwargs: For `encode_query` and `encode_document`, such as `batch_size` or `truncate_dim`.
    """

    def __init__(self, model: SentenceTransformer | str | Path, **encode_kwargs: Any) -> None:
        self.model, self.encode_kwargs = opened(model, SentenceTransformer), encode_kwargs

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts of documents."""
        made: list[list[float]] = encode_texts(self.model, texts, "document", **self.encode_kwargs).tolist()
        return made

    def embed_query(self, text: str) -> list[float]:
        """Embed one query."""
        made: list[float] = encode_texts(self.model, [text], "query", **self.encode_kwargs)[0].tolist()
        return made

    def embed_image(self, uris: Sequence[str]) -> list[list[float]]:
        """Embed images by path, as LangChain's vector stores call it (`add_images`)."""
        made = self.model.encode_document(list(uris), **{"show_progress_bar": False, **self.encode_kwargs})
        rows: list[list[float]] = made.tolist()
        return rows


class OmnituneCrossEncoder(BaseCrossEncoder):  # type: ignore[misc]  # LangChain is not type-checked here
    """Scores pairs of a query and a text, for `CrossEncoderReranker`.

    Args:
        model: A reranker, or its path.
        **predict_kwargs: For `predict`, such as `batch_size`.
    """

    def __init__(self, model: CrossEncoder | str | Path, **predict_kwargs: Any) -> None:
        self.model, self.predict_kwargs = opened(model, CrossEncoder), predict_kwargs

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Relevance of every pair."""
        pairs = [list(pair) for pair in text_pairs]
        if not pairs:
            return []
        scores: Any = self.model.predict(pairs, **{"show_progress_bar": False, **self.predict_kwargs})
        made: list[float] = scores.tolist()
        return made
