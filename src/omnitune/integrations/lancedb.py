"""LanceDB: an embedding function of its registry, kept with the table, so that a table opens with its model.

>>> from omnitune.integrations.lancedb import OmnituneFunction
>>> embed = OmnituneFunction.create(path="run/model")
>>> class Page(LanceModel):
...     text: str = embed.SourceField()
...     vector: Vector(embed.ndims()) = embed.VectorField()
"""

from typing import Any

from lancedb.embeddings import EmbeddingFunction, register
from pydantic import PrivateAttr

from omnitune.integrations.wrap import encode_texts, opened
from omnitune.model.dense import SentenceTransformer


@register("omnitune")
class OmnituneFunction(EmbeddingFunction):  # type: ignore[misc]  # LanceDB is not type-checked here
    """Embeds queries and documents with the model's own prompts; a column of `bytes` holds images.

    Args:
        path: Of the model.
        max_retries: Times that a failure is tried again; a local model fails the same way again.
    """

    path: str
    max_retries: int = 0
    _model: Any = PrivateAttr(default=None)

    @property
    def model(self) -> Any:
        """The model, opened when it is first needed."""
        if self._model is None:
            self._model = opened(self.path, SentenceTransformer)
        return self._model

    def ndims(self) -> int:
        """Dimensions of a vector."""
        return int(self.model.get_embedding_dimension())

    def compute_query_embeddings(self, query: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Embed one query: text, or an image where the model takes images."""
        del args, kwargs
        if isinstance(query, str):
            return list(encode_texts(self.model, [query], "query"))
        return list(self.model.encode_query([query], show_progress_bar=False))

    def compute_source_embeddings(self, texts: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Embed a column: texts, or images as bytes."""
        del args, kwargs
        items = texts.to_pylist() if hasattr(texts, "to_pylist") else [texts] if isinstance(texts, str) else list(texts)
        if all(isinstance(one, str) for one in items):
            return list(encode_texts(self.model, items, "document"))
        return list(self.model.encode_document(items, show_progress_bar=False))
