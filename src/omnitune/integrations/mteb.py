"""mteb: an encoder, a reranker, and a whole retriever, as its tasks call them.

mteb puts a placeholder in the place of an object that it does not know, and keeps results by name and revision; so the
revision is a hash of the weights and prompts, and a model that was trained again is measured again.

>>> import mteb
>>> from omnitune.integrations.mteb import OmnituneEncoder
>>> mteb.evaluate(OmnituneEncoder("run/model"), tasks)
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from omnitune.integrations.wrap import opened
from omnitune.model.base import Model
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import CrossEncoder
from omnitune.retrieval.retriever import Retriever

_MEDIA = ("image", "audio", "video")
_ASKED = ("batch_size", "show_progress_bar", "precision")
"""Arguments of mteb that a model's verbs take."""


class OmnituneEncoder(AbsEncoder):  # type: ignore[misc]  # mteb is not type-checked here
    """A dense encoder for mteb, with the model's own prompts for queries and documents.

    Args:
        model: A model, or its path.
        name: Name under which results are kept, as `owner/name`.
        **encode_kwargs: For the model's verbs, over what mteb asks for.
    """

    def __init__(
        self, model: SentenceTransformer | str | Path, *, name: str | None = None, **encode_kwargs: Any
    ) -> None:
        self.model, self.encode_kwargs = opened(model, SentenceTransformer), encode_kwargs
        similarity = self.model.similarity_fn_name
        known = {one.value: one for one in ScoringFunction}
        self.mteb_model_meta = _meta(
            self.model, name, model, embed_dim=self.model.get_embedding_dimension(),
            similarity_fn_name=known.get(similarity, ScoringFunction.CUSTOM),
        )  # fmt: skip

    def encode(self, inputs: Any, *, prompt_type: Any = None, **kwargs: Any) -> Any:
        """Embed batches `(items, dim)`: as queries, as documents, or as neither where mteb names no role."""
        verbs: dict[Any, Any] = {
            PromptType.query: self.model.encode_query,
            PromptType.document: self.model.encode_document,
        }
        verb = verbs.get(prompt_type, self.model.encode)
        items = _items(inputs, self.model)
        asked: dict[str, Any] = {key: kwargs[key] for key in _ASKED if key in kwargs}
        options: dict[str, Any] = {"show_progress_bar": False, **asked, **self.encode_kwargs}
        return verb(items, **options)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarity of every pair, by the model's function."""
        return self.model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Similarity of the first with the first, the second with the second, ..."""
        return self.model.similarity_pairwise(embeddings1, embeddings2)


class OmnituneReranker:
    """A reranker for mteb.

    Args:
        model: A reranker, or its path.
        name: Name under which results are kept, as `owner/name`.
    """

    def __init__(self, model: CrossEncoder | str | Path, *, name: str | None = None) -> None:
        self.model = opened(model, CrossEncoder)
        self.mteb_model_meta = _meta(self.model, name, model)

    def predict(self, inputs1: Any, inputs2: Any, **kwargs: Any) -> Any:
        """Relevance of the first of one side to the first of the other, the second to the second, ..."""
        sides = [_items(side, self.model) for side in (inputs1, inputs2)]
        asked = {key: kwargs[key] for key in ("batch_size", "show_progress_bar") if key in kwargs}
        pairs = [list(pair) for pair in zip(*sides, strict=True)]
        return self.model.predict(pairs, **{"show_progress_bar": False, **asked})


class OmnituneRetriever:
    """A whole retriever for mteb: its stages, fusion and reranker over the task's corpus.

    Args:
        build: Makes a retriever of pages with `id`, `document` and `text`, such as
            `lambda pages: Retriever.build(pages, [LexicalStage(), DenseStage(model=model)])`.
        name: Name under which results are kept, as `owner/name`.
        revision: Of the retriever; give another one when it changes.
    """

    def __init__(self, build: Callable[[Sequence[Mapping[str, Any]]], Retriever], *, name: str, revision: str) -> None:
        self.build = build
        self.retriever: Retriever | None = None
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={"name": name, "revision": revision, "modalities": ["text"]}
        )

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Make the retriever of a corpus."""
        del kwargs
        pages = []
        for row in corpus:
            text = "\n".join(
                part for part in (row.get("title") or "", row.get("text") or row.get("body") or "") if part
            )
            pages.append({"id": str(row["id"]), "document": str(row["id"]), "text": text})
        self.retriever = self.build(pages)

    def search(self, queries: Any, *, top_k: int, **kwargs: Any) -> dict[str, dict[str, float]]:
        """Scores of the `top_k` documents of every query, by id.

        Raises:
            RuntimeError: No corpus was indexed.
        """
        if self.retriever is None:
            raise RuntimeError("index: expected a corpus before a search, got none")
        wanted = kwargs.get("top_ranked")
        found: dict[str, dict[str, float]] = {}
        for row in queries:
            among = None if wanted is None else set(wanted[row["id"]])
            depth = top_k if among is None else len(self.retriever)
            hits = [hit for hit in self.retriever.search(str(row["text"]), depth) if among is None or hit.id in among]
            found[str(row["id"])] = {hit.id: hit.score for hit in hits[:top_k]}
        return found


def _items(inputs: Any, model: Model) -> list[Any]:
    """The items of mteb's batches: texts, or what else the model takes of each."""
    taken = [one for one in _MEDIA if one in model.modalities]
    items: list[Any] = []
    for batch in inputs:
        present = [key for key in ("text", *taken) if key in batch and (key == "text" or batch[key][0] is not None)]
        if present == ["text"]:
            texts = list(batch["text"])
            items += [{"text": one} for one in texts] if taken and model.family.arity == 1 else texts
        elif len(present) == 1:
            items += list(batch[present[0]])
        else:
            rows = zip(*(batch[key] for key in present), strict=True)
            items += [dict(zip(present, row, strict=True)) for row in rows]
    return items


def _meta(model: Model, name: str | None, source: Any, **more: Any) -> Any:
    if name is None:
        named = Path(str(source)).name if isinstance(source, str | Path) else None
        name = f"omnitune/{named or Path(model.model_card_data.base_model or 'model').name}"
    found = hashlib.sha256(json.dumps([model.prompts, model.max_seq_length]).encode())
    for key, value in model.state_dict().items():
        found.update(key.encode())
        found.update(np.ascontiguousarray(value.detach().float().cpu().numpy()).tobytes())
    kinds = [one for one in ("text", *_MEDIA) if one in model.modalities]
    facts = {"name": name, "revision": found.hexdigest()[:16], "modalities": kinds, "max_tokens": model.max_seq_length}
    return ModelMeta.create_empty(overwrites={**facts, **more})
