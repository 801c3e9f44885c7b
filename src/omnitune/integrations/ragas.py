"""Ragas: embeddings of questions and answers for its metrics.

>>> from omnitune.integrations.ragas import OmnituneEmbeddings
>>> AnswerRelevancy(llm=llm, embeddings=OmnituneEmbeddings("run/model"))
"""

import asyncio
from pathlib import Path
from typing import Any

from ragas.embeddings.base import BaseRagasEmbedding

from omnitune.integrations.wrap import opened
from omnitune.model.dense import SentenceTransformer


class OmnituneEmbeddings(BaseRagasEmbedding):  # type: ignore[misc]  # Ragas is not type-checked here
    """Embeds texts that Ragas compares with one another, all of them alike.

    Args:
        model: A model, or its path.
        **encode_kwargs: For `encode`, such as `prompt_name`.
    """

    def __init__(self, model: SentenceTransformer | str | Path, **encode_kwargs: Any) -> None:
        super().__init__()
        self.model, self.encode_kwargs = opened(model, SentenceTransformer), encode_kwargs

    def embed_text(self, text: str, **kwargs: Any) -> list[float]:
        """Embed one text."""
        return self.embed_texts([text], **kwargs)[0]

    async def aembed_text(self, text: str, **kwargs: Any) -> list[float]:
        """Embed one text on another thread."""
        return await asyncio.to_thread(self.embed_text, text, **kwargs)

    def embed_texts(self, texts: list[str], **kwargs: Any) -> list[list[float]]:
        """Embed texts in batches."""
        items: list[Any] = list(texts)
        if set(self.model.modalities) - {"text"}:
            items = [{"text": text} for text in items]
        made = self.model.encode(items, **{"show_progress_bar": False, **self.encode_kwargs, **kwargs})
        rows: list[list[float]] = made.tolist() if items else []
        return rows
