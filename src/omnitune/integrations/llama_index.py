"""LlamaIndex: embeddings of texts and images, and a reranker.

>>> from omnitune.integrations.llama_index import OmnituneEmbedding, OmnituneRerank
>>> index = VectorStoreIndex.from_documents(documents, embed_model=OmnituneEmbedding("run/model"))
"""

import asyncio
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode
from PIL import Image

from omnitune.integrations.wrap import encode_texts, opened
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import CrossEncoder

Vectors = list[list[float]]


class OmnituneEmbedding(MultiModalEmbedding):  # type: ignore[misc]  # LlamaIndex is not type-checked here
    """Embeds queries, texts and images with the model's own prompts.

    Args:
        model: A model, or its path.
        encode_kwargs: For `encode_query` and `encode_document`.
        **kwargs: Fields of LlamaIndex's base class, such as `embed_batch_size`.
    """

    _model: Any = PrivateAttr()
    _options: dict[str, Any] = PrivateAttr()

    def __init__(
        self, model: SentenceTransformer | str | Path, *, encode_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        name = str(model) if isinstance(model, str | Path) else model.model_card_data.base_model or "omnitune"
        super().__init__(**{"model_name": name, **kwargs})
        self._model, self._options = opened(model, SentenceTransformer), dict(encode_kwargs or {})

    @classmethod
    def class_name(cls) -> str:
        """Name by which LlamaIndex keeps it."""
        return "OmnituneEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        made: list[float] = encode_texts(self._model, [query], "query", **self._options)[0].tolist()
        return made

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> Vectors:
        made: Vectors = encode_texts(self._model, texts, "document", **self._options).tolist()
        return made

    def _get_image_embedding(self, img_file_path: str | BytesIO) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: Sequence[str | BytesIO]) -> Vectors:
        images = [Image.open(one) if isinstance(one, BytesIO) else str(one) for one in img_file_paths]
        made: Vectors = self._model.encode_document(images, **{"show_progress_bar": False, **self._options}).tolist()
        return made

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> Vectors:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: str | BytesIO) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: Sequence[str | BytesIO]) -> Vectors:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)


class OmnituneRerank(BaseNodePostprocessor):  # type: ignore[misc]  # LlamaIndex is not type-checked here
    """Orders nodes by a reranker.

    Args:
        model: A reranker, or its path.
        top_n: Nodes to keep.
    """

    top_n: int
    _model: Any = PrivateAttr()

    def __init__(self, model: CrossEncoder | str | Path, top_n: int = 2, **kwargs: Any) -> None:
        super().__init__(**{"top_n": top_n, **kwargs})
        self._model = opened(model, CrossEncoder)

    @classmethod
    def class_name(cls) -> str:
        """Name by which LlamaIndex keeps it."""
        return "OmnituneRerank"

    def _postprocess_nodes(self, nodes: list[Any], query_bundle: Any = None) -> list[Any]:
        """Score nodes by the query, and keep the best.

        Raises:
            ValueError: There is no query.
        """
        if query_bundle is None:
            raise ValueError("query_bundle: expected the query to order nodes by, got None")
        texts = [one.node.get_content(metadata_mode=MetadataMode.EMBED) for one in nodes]
        found = self._model.rank(query_bundle.query_str, texts, top_k=self.top_n, show_progress_bar=False)
        for one in found:
            nodes[one["corpus_id"]].score = one["score"]
        return [nodes[one["corpus_id"]] for one in found]
