"""Haystack: components that embed queries, embed documents (texts or images), and rank documents.

>>> from omnitune.integrations.haystack import OmnituneDocumentEmbedder, OmnituneTextEmbedder
>>> pipeline.add_component("embedder", OmnituneTextEmbedder("run/model"))
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from PIL import Image

from omnitune.errors import InputError
from omnitune.integrations.wrap import encode_texts, opened
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import CrossEncoder


class _Component:
    """Writing down a component, as pipelines are saved."""

    model: Any
    kwargs: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As a pipeline is saved.

        Raises:
            InputError: The component was made with a model and not with its path.
        """
        if not isinstance(self.model, str | Path):
            raise InputError(
                f"model: expected a path, with which a pipeline can be saved, got {type(self.model).__name__}"
            )
        made: dict[str, Any] = default_to_dict(self, model=str(self.model), **self.kwargs)
        return made

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Any:
        """From what `to_dict` made."""
        return default_from_dict(cls, data)


@component
class OmnituneTextEmbedder(_Component):
    """Embeds a query.

    Args:
        model: A model, or its path.
        **kwargs: For `encode_query`, such as `truncate_dim`.
    """

    def __init__(self, model: SentenceTransformer | str | Path, **kwargs: Any) -> None:
        self.model, self.kwargs = model, kwargs
        self._encoder: Any = None

    def warm_up(self) -> None:
        """Load the model."""
        self._encoder = self._encoder or opened(self.model, SentenceTransformer)

    @component.output_types(embedding=list[float])  # type: ignore[untyped-decorator]
    def run(self, text: str) -> dict[str, Any]:
        """Embed a query: `{"embedding": vector}`."""
        self.warm_up()
        return {"embedding": encode_texts(self._encoder, [text], "query", **self.kwargs)[0].tolist()}


@component
class OmnituneDocumentEmbedder(_Component):
    """Embeds documents: their texts, or the images of those without text (a blob, or `meta["file_path"]`).

    Args:
        model: A model, or its path.
        **kwargs: For `encode_document`, such as `batch_size`.
    """

    def __init__(self, model: SentenceTransformer | str | Path, **kwargs: Any) -> None:
        self.model, self.kwargs = model, kwargs
        self._encoder: Any = None

    def warm_up(self) -> None:
        """Load the model."""
        self._encoder = self._encoder or opened(self.model, SentenceTransformer)

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents: `{"documents": the same ones with vectors}`.

        Raises:
            InputError: A document has neither text nor image.
        """
        self.warm_up()
        vectors: dict[int, Any] = {}
        texts = [number for number, one in enumerate(documents) if one.content]
        made = encode_texts(self._encoder, [documents[number].content for number in texts], "document", **self.kwargs)
        vectors.update(zip(texts, made, strict=True))
        images = [number for number in range(len(documents)) if number not in vectors]
        if images:
            items = [_image(documents[number]) for number in images]
            made = self._encoder.encode_document(items, **{"show_progress_bar": False, **self.kwargs})
            vectors.update(zip(images, made, strict=True))
        return {"documents": [replace(one, embedding=vectors[n].tolist()) for n, one in enumerate(documents)]}


@component
class OmnituneRanker(_Component):
    """Orders documents by a reranker.

    Args:
        model: A reranker, or its path.
        top_k: Documents to keep.
    """

    def __init__(self, model: CrossEncoder | str | Path, top_k: int = 10) -> None:
        self.model, self.top_k, self.kwargs = model, top_k, {"top_k": top_k}
        self._ranker: Any = None

    def warm_up(self) -> None:
        """Load the model."""
        self._ranker = self._ranker or opened(self.model, CrossEncoder)

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """Order documents by their texts: `{"documents": the best, with scores}`."""
        self.warm_up()
        if not documents:
            return {"documents": []}
        texts = [one.content or "" for one in documents]
        found = self._ranker.rank(query, texts, top_k=top_k or self.top_k, show_progress_bar=False)
        return {"documents": [replace(documents[one["corpus_id"]], score=one["score"]) for one in found]}


def _image(document: Document) -> Any:
    if document.blob is not None:
        from io import BytesIO

        return Image.open(BytesIO(document.blob.data))
    if "file_path" in document.meta:
        return str(document.meta["file_path"])
    raise InputError(f"documents: expected text, a blob or meta['file_path'], got none in {document.id[:20]}")
