"""The models behind a server, as work for its thread: embed, rerank, search and say why."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnitune.errors import InputError
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.model.base import Model
from omnitune.model.family import DENSE, MULTI_VECTOR, SPARSE
from omnitune.model.pair import CrossEncoder
from omnitune.modules.readers.text import TextReader
from omnitune.retrieval.hits import Hit
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.reasons import Reason, reason_of
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import REFINING, LexicalStage, ModelStage
from omnitune.serve.bodies import SearchRequest
from omnitune.serve.vectors import Vector

MEDIA_COST = 1024
"""Tokens that an image, recording or clip counts in a batch."""
SENTENCES_COST = 2048
"""Tokens that the sentences of a page count."""
MOST_FOR_LEXICAL = 20_000
"""Pages up to which a retriever without BM25 gets it beside, to compare rankings with."""
WORDS_OF_IMAGE = 300
"""Words of an image that a query is made of, where no model takes images and its text is recognised instead."""
POLICY = dataclasses.replace(DEFAULT_POLICY, allow_local_files=False, allow_urls=False, isolate=True)
"""For strangers' files: none is named by its place, and each is decoded in a process that may die of it."""
FAMILIES = {DENSE.name: "dense", MULTI_VECTOR.name: "late-interaction", SPARSE.name: "sparse"}
CHOSEN = "chosen"
"""Ranking by all stages of a retriever."""


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """The score of a pair, and whether the model cut one of its texts."""

    value: float
    truncated: bool


class Served:
    """A retriever, an encoder, a reranker, or several of them, under one name.

    Args:
        name: By which clients ask for it.
        retriever: For `/search` and the search page.
        encoder: For `/v1/embeddings`, of any family; None takes that of the retriever's stages, the dense one first.
        reranker: For `/rerank`; None takes the retriever's, else the encoder's similarity.
        feedback: File to which votes are appended.
        documents: Folders of the documents that hits link to; the first that has one counts.

    Raises:
        InputError: There is nothing to serve.
    """

    def __init__(
        self,
        name: str,
        *,
        retriever: Retriever | None = None,
        encoder: Any = None,
        reranker: CrossEncoder | None = None,
        feedback: Path | None = None,
        documents: Sequence[Path] = (),
    ) -> None:
        self.name, self.retriever, self.feedback, self.documents = (
            name,
            retriever,
            feedback,
            tuple(dict.fromkeys(documents)),
        )
        self.rankings: list[str] = []
        self.sees = self.compares_images = False
        own: dict[str, Model] = {}
        if retriever is not None:
            # All models are loaded here, so that a server that is ready answers its first request as fast as others.
            for kind, stage in retriever.stages.items():
                if isinstance(stage, ModelStage):
                    made = stage.encoder()
                    own[kind] = getattr(made, "model", made)  # of token vectors, the encoder that makes them
            first = [*(own[kind] for kind in ("dense", "late") if kind in own), *own.values()]
            encoder = first[0] if encoder is None and first else encoder
            if retriever.rerank is not None:
                retriever.rerank.scores("query", ["document"])
                reranker = retriever.rerank.loaded if reranker is None else reranker
            self._rankers: dict[str, Retriever] = {CHOSEN: retriever}
            proposing = [kind for kind in retriever.stages if kind not in REFINING]
            self.rankings = [CHOSEN, *proposing]
            if "lexical" not in proposing and len(retriever) <= MOST_FOR_LEXICAL:
                self.rankings.insert(1, "lexical")
            self._seeing = {kind: 1.0 for kind, one in own.items() if "image" in getattr(one, "modalities", ())}
            self.compares_images = bool(self._seeing)
            self.sees = self.compares_images or find_spec("tesserocr") is not None
        if retriever is None and encoder is None and reranker is None:
            raise InputError("served: expected a retriever, an encoder or a reranker, got none")
        if reranker is not None and reranker.num_labels != 1:
            raise InputError(f"reranker: expected a model with one label, got one with {reranker.num_labels}")
        self.encoder, self.reranker = encoder, reranker
        self.family = FAMILIES.get(encoder.family.name, encoder.family.name) if encoder is not None else ""
        for model in (encoder, reranker, *own.values()):
            if isinstance(model, Model):
                model.media_policy = dataclasses.replace(
                    model.media_policy, allow_local_files=False, allow_urls=False, isolate=True
                )

    def works(self) -> Mapping[Hashable, Callable[[Sequence[Any]], Sequence[Any]]]:
        """Functions of batches by kind of work."""
        works: dict[Hashable, Callable[[Sequence[Any]], Sequence[Any]]] = {}
        if self.encoder is not None:
            works = {role: partial(self._embed, role) for role in ("query", "document")}
        if self.reranker is not None or self.encoder is not None:
            works["rerank"] = self._rerank
        if self.retriever is not None:
            works |= {"search": self._search, "why": self._why}
        return works

    def cost(self, item: Any) -> int:
        """Tokens of an input, estimated: four characters a token, at most as many as the model reads."""
        if isinstance(item, SearchRequest):
            return len(item.query) // 4 + 1 + MEDIA_COST * (item.image is not None)
        if isinstance(item, WhyRequest):
            return SENTENCES_COST
        parts = item if isinstance(item, tuple) else (item,)
        characters: int = sum(len(one) if isinstance(one, str) else len(one.get("text", "")) for one in parts)
        media: int = sum(kind != "text" for one in parts if isinstance(one, dict) for kind in one)
        model = self.encoder or self.reranker
        longest: int = (model.max_seq_length if model is not None else None) or 8192
        return min(characters // 4 + 1, longest) + MEDIA_COST * media

    # -- embeddings and scores

    def _embed(self, role: str, items: Sequence[Any]) -> list[Vector]:
        rows = Packed.of(self._encoded(role, items), "float32")
        made = []
        for number, (count, truncated) in enumerate(self._lengths(self.encoder, items)):
            indices = None
            if rows.indices is not None and rows.offsets is not None:
                indices = rows.indices[rows.offsets[number] : rows.offsets[number + 1]]
            made.append(Vector(values=rows[number], indices=indices, tokens=count, truncated=truncated))
        return made

    def _encoded(self, role: str, items: Sequence[Any]) -> Any:
        model = self.encoder
        # A model of several modalities would take a text that reads like a path or an address for a medium.
        several = len(model.modalities) > 1
        inputs = [{"text": item} if several and isinstance(item, str) else item for item in items]
        encode = model.encode_query if role == "query" else model.encode_document
        return encode(inputs, show_progress_bar=False)

    def _rerank(self, pairs: Sequence[Any]) -> list[Score]:
        if self.reranker is None:
            return self._similarities(pairs)
        several = len(self.reranker.modalities) > 1
        given = [
            (query, {"text": document} if several and isinstance(document, str) else document)
            for query, document in pairs
        ]
        scores = self.reranker.predict(given, show_progress_bar=False)
        cut = self._lengths(self.reranker, pairs)
        return [Score(float(score), truncated) for score, (_, truncated) in zip(scores, cut, strict=True)]

    def _similarities(self, pairs: Sequence[Any]) -> list[Score]:
        """Scores of an encoder; a query that stands in several pairs is encoded once."""
        queries = {repr(query): query for query, _ in pairs}
        rows = {key: number for number, key in enumerate(queries)}
        numbers = [rows[repr(query)] for query, _ in pairs]
        asked: Any = self._encoded("query", list(queries.values()))
        documents = [document for _, document in pairs]
        found: Any = self._encoded("document", documents)
        if isinstance(asked, list):
            chosen: Any = [asked[number] for number in numbers]
        elif isinstance(asked, torch.Tensor):  # a sparse one knows no other way
            chosen = asked.index_select(0, torch.tensor(numbers, device=asked.device))
        else:
            chosen = asked[numbers]
        scores = self.encoder.similarity_pairwise(chosen, found)
        cut = self._lengths(self.encoder, documents)
        return [Score(float(score), truncated) for score, (_, truncated) in zip(scores, cut, strict=True)]

    def _lengths(self, model: Any, items: Sequence[Any]) -> list[tuple[int, bool]]:
        """Tokens of every input or pair before it is cut, and whether the model cuts it."""
        pairs = [item if isinstance(item, tuple) else (item,) for item in items]
        texts = [" ".join(one if isinstance(one, str) else one.get("text", "") for one in pair) for pair in pairs]
        tokenizer = getattr(model, "tokenizer", None)
        if callable(tokenizer):
            made = tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
            # A pair has one more separator than its texts in a row.
            counts = [len(ids) + len(pair) - 1 for ids, pair in zip(made, pairs, strict=True)]
        else:
            counts = [len(text.split()) for text in texts]
        longest = model.max_seq_length
        return [(count, bool(longest) and count > longest) for count in counts]

    # -- search

    def _search(self, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        found = []
        for one in requests:
            retriever, query = self._ranker(one.ranking), one.query
            if one.image is not None:
                if self._seeing:
                    seen: Any = {"image": one.image}
                    some = self._ranker("image")
                    found.append(some.search(seen, one.top_k, one.where, explain=True))
                    continue
                query = self.read(one.image)
            found.append(retriever.search(query, one.top_k, one.where, explain=True))
        return found

    def read(self, image: str) -> str:
        """Recognise the text of an image, as a query.

        Raises:
            InputError: There is none.
            MediaError: It cannot be read.
        """
        text = TextReader().read([load(image, "image", POLICY)])[0]
        if not text.strip():
            raise InputError("image: expected one with legible text, as the models here read text alone; got none")
        return " ".join(text.split()[:WORDS_OF_IMAGE])

    def _ranker(self, name: str) -> Retriever:
        """The retriever as one stage alone ranks; made when it is first asked for."""
        assert self.retriever is not None
        if name not in self._rankers:
            if name == "image":
                made = self.retriever.only(self._seeing)
            elif name in self.retriever.stages:
                made = self.retriever.only({name: 1.0})
            else:
                segments = self.retriever.segments
                pages = [
                    {**part.entry(int(row)), **part.details(int(row))}
                    for part in segments.parts
                    for row in np.flatnonzero(part.alive)
                ]
                made = Retriever.build(pages, [LexicalStage()], show_progress=False)
            made.files = self.retriever.files
            self._rankers[name] = made
        return self._rankers[name]

    def _why(self, requests: Sequence["WhyRequest"]) -> list[Reason]:
        assert self.retriever is not None
        return [reason_of(self.retriever, one.query, one.page) for one in requests]


@dataclasses.dataclass(frozen=True, slots=True)
class WhyRequest:
    """Asks why a page answers a query."""

    query: str
    page: str
