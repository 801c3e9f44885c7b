"""txtai: a method of its vectors, which tells queries from documents.

>>> Embeddings(path="run/model", method="omnitune.integrations.txtai.OmnituneVectors")
"""

from typing import Any

from txtai.vectors import Vectors

from omnitune.integrations.wrap import encode_texts, opened
from omnitune.model.dense import SentenceTransformer


class OmnituneVectors(Vectors):  # type: ignore[misc]  # txtai is not type-checked here
    """Embeds texts with the model's own prompts: those of queries where txtai searches, of documents elsewhere."""

    def loadmodel(self, path: str) -> Any:
        """Open the model."""
        return opened(path, SentenceTransformer)

    def encode(self, data: list[str], category: str | None = None) -> Any:
        """Embed texts `(texts, dim)` float32."""
        return encode_texts(self.model, data, "query" if category == "query" else "document")
