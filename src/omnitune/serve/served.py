"""The models behind a server, as work for its thread: embed, rerank and search."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omnitune.errors import InputError
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import CrossEncoder
from omnitune.retrieval.hits import Hit
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import ModelStage
from omnitune.serve.bodies import SearchRequest

MEDIA_COST = 1024
"""Tokens that an image, recording or clip counts in a batch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Vector:
    """An embedding `(dim,)`, with the tokens of its input as the model counts them, before it cuts a long one."""

    values: Any
    tokens: int
    truncated: bool


class Served:
    """A retriever, an encoder, a reranker, or several of them, under one name.

    Args:
        name: By which clients ask for it.
        retriever: For `/search` and the search page.
        encoder: For `/v1/embeddings`; None takes that of the retriever's dense stage.
        reranker: For `/rerank`; None takes the retriever's, else the encoder's similarity.
        feedback: File to which votes are appended.
        documents: Folder of the documents that hits link to.

    Raises:
        InputError: There is nothing to serve.
    """

    def __init__(
        self,
        name: str,
        *,
        retriever: Retriever | None = None,
        encoder: SentenceTransformer | None = None,
        reranker: CrossEncoder | None = None,
        feedback: Path | None = None,
        documents: Path | None = None,
    ) -> None:
        self.name, self.retriever, self.feedback, self.documents = name, retriever, feedback, documents
        if retriever is not None:
            # All models are loaded here, so that a server that is ready answers its first request as fast as others.
            own = {kind: stage.encoder() for kind, stage in retriever.stages.items() if isinstance(stage, ModelStage)}
            encoder = own.get("dense") if encoder is None else encoder
            if retriever.rerank is not None:
                retriever.rerank.scores("query", ["document"])
                reranker = retriever.rerank.loaded if reranker is None else reranker
        if retriever is None and encoder is None and reranker is None:
            raise InputError("served: expected a retriever, an encoder or a reranker, got none")
        if reranker is not None and reranker.num_labels != 1:
            raise InputError(f"reranker: expected a model with one label, got one with {reranker.num_labels}")
        self.encoder, self.reranker = encoder, reranker
        for model in (encoder, reranker):
            if model is not None:
                # Strangers' files: none is named by its place, and each is decoded in a process that may die of it.
                model.media_policy = dataclasses.replace(
                    model.media_policy, allow_local_files=False, allow_urls=False, isolate=True
                )

    def works(self) -> Mapping[Hashable, Callable[[Sequence[Any]], Sequence[Any]]]:
        """Functions of batches by kind of work."""
        works: dict[Hashable, Callable[[Sequence[Any]], Sequence[Any]]] = {}
        if self.encoder is not None:
            works = {role: partial(self._embed, role) for role in ("query", "document")}
        if self.reranker is not None:
            works["rerank"] = self._rerank
        if self.retriever is not None:
            works["search"] = self._search
        return works

    def cost(self, item: Any) -> int:
        """Tokens of an input, estimated: four characters a token, at most as many as the model reads."""
        if isinstance(item, SearchRequest):
            item = item.query
        texts = [item] if isinstance(item, str) else [item.get("text", "")] if isinstance(item, dict) else item
        media = sum(kind != "text" for kind in item) if isinstance(item, dict) else 0
        model = self.encoder or self.reranker
        longest = (model.max_seq_length if model is not None else None) or 8192
        return min(sum(map(len, texts)) // 4 + 1, longest) + MEDIA_COST * media

    def _embed(self, role: str, items: Sequence[Any]) -> list[Vector]:
        model = self.encoder
        assert model is not None
        # A model of several modalities would take a text that reads like a path or an address for a medium.
        several = len(model.modalities) > 1
        inputs = [{"text": item} if several and isinstance(item, str) else item for item in items]
        encode = model.encode_query if role == "query" else model.encode_document
        vectors = np.asarray(encode(inputs, show_progress_bar=False), dtype=np.float32)
        texts = [item if isinstance(item, str) else item.get("text", "") for item in items]
        counts = self._tokens(texts)
        longest = model.max_seq_length or max(counts)
        return [Vector(row, count, count > longest) for row, count in zip(vectors, counts, strict=True)]

    def _tokens(self, texts: list[str]) -> list[int]:
        tokenizer = getattr(self.encoder, "tokenizer", None)
        if not callable(tokenizer):
            return [len(text.split()) for text in texts]
        return [len(ids) for ids in tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]]

    def _rerank(self, pairs: Sequence[Any]) -> list[float]:
        assert self.reranker is not None
        return [float(score) for score in self.reranker.predict(list(pairs), show_progress_bar=False)]

    def _search(self, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        assert self.retriever is not None
        return [self.retriever.search(one.query, one.top_k, one.where, explain=True) for one in requests]
