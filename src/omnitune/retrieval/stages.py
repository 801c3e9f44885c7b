"""The stages of a retriever as values: what each reads, with which model, and how their scores become one ranking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from omnitune import io
from omnitune.errors import InputError
from omnitune.model.base import Model
from omnitune.model.dense import SentenceTransformer
from omnitune.model.family import MULTI_VECTOR, class_of
from omnitune.model.sparse import SparseEncoder
from omnitune.model.windows import OVERLAP, window_cutter
from omnitune.retrieval.base import MISSING, SegmentedIndex, check_model
from omnitune.retrieval.dense_index import DenseIndex
from omnitune.retrieval.late_index import CANDIDATES, POOLED, LateIndex
from omnitune.retrieval.lexical import LexicalIndex
from omnitune.retrieval.lines import BETA, LineIndex, ListingIndex
from omnitune.retrieval.packed import Packed, grouped
from omnitune.retrieval.segments import Segments
from omnitune.retrieval.sparse_index import SparseIndex, Weights
from omnitune.retrieval.store import encode_corpus, identity, weights_identity
from omnitune.retrieval.token_codec import Codec
from omnitune.retrieval.token_vectors import TokenVectors

Scores = NDArray[np.float32]

REFINING = frozenset({"lines", "listing"})
"""Stages that score the candidates of others and propose none."""


MOST_WEIGHT = 1e30
"""Of a stage, and of its settings: sums of scores that are weighed so are still numbers in single precision."""


def load_encoder(folder: str | Path, **options: Any) -> Any:
    """Load a saved model as what it was saved as: dense, multi-vector, or of pairs.

    Args:
        folder: A model directory.
        **options: For its class, such as `device`.
    """
    facts = io.read_json_or_none(Path(folder) / "config_sentence_transformers.json") or {}
    kind = facts.get("model_type", "SentenceTransformer")
    encoder = class_of(MULTI_VECTOR.name if kind == "ColBERT" else kind) or SentenceTransformer
    return encoder(str(folder), **options)


def _is_number(value: Any, high: float) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 <= value <= high)


def _expect(value: Any, name: str, high: float = MOST_WEIGHT) -> None:
    if not _is_number(value, high):
        span = "from 0" if high == MOST_WEIGHT else f"from 0 to {high:g}"
        raise InputError(f"{name}: expected a number {span}, got {value!r}")


@dataclass(kw_only=True)
class LexicalStage:
    """BM25 over the texts of pages.

    Attributes:
        k1: How fast repeated occurrences of a word stop counting.
        b: How much long texts are held back, from 0 to 1.

    Example:
        >>> items = [{"id": f"pump.pdf#{page}", "text": text} for page, text in enumerate(pages, start=1)]
        >>> retriever = Retriever.build(items, [LexicalStage(b=0.5)])
        >>> retriever.search("250 degrees", top_k=1)[0].id
        'pump.pdf#2'
    """

    kind: ClassVar[str] = "lexical"
    k1: float = 1.2
    b: float = 0.75

    def __post_init__(self) -> None:
        _expect(self.k1, "k1")
        _expect(self.b, "b", 1.0)

    def facts(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {"k1": self.k1, "b": self.b}


@dataclass(kw_only=True)
class LineStage:
    """The line of a page that matches best, from 0 to 1 (`lines.LineIndex`); refines what other stages propose.

    Attributes:
        beta: Weight of the line's other words against the query's.

    Example:
        >>> from omnitune.retrieval.stages import Fusion, LexicalStage
        >>> items = [{"id": f"pump.pdf#{page}", "text": text} for page, text in enumerate(pages, start=1)]
        >>> fusion = Fusion(weights={"lexical": 1.0, "lines": 0.5})
        >>> retriever = Retriever.build(items, [LexicalStage(), LineStage()], fusion=fusion)
        >>> round(retriever.search("grease the bearing", explain=True)[0].stages["lines"], 2)
        0.6
    """

    kind: ClassVar[str] = "lines"
    beta: float = BETA

    def __post_init__(self) -> None:
        _expect(self.beta, "beta")

    def facts(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {"beta": self.beta}


@dataclass(kw_only=True)
class ListingStage:
    """Holds back tables of contents, from -1 to 0 (`lines.ListingIndex`); refines what other stages propose.

    Example:
        >>> from omnitune.retrieval.stages import Fusion, LexicalStage
        >>> items = [{"id": "contents", "text": "Bearing . . . . . . . . 12"}, {"id": "page 12", "text": pages[0]}]
        >>> fusion = Fusion(weights={"lexical": 1.0, "listing": 2.0})
        >>> retriever = Retriever.build(items, [LexicalStage(), ListingStage()], fusion=fusion)
        >>> [(hit.id, hit.stages["listing"]) for hit in retriever.search("bearing", explain=True)]
        [('page 12', 0.0), ('contents', -1.0)]
    """

    kind: ClassVar[str] = "listing"

    def facts(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {}


@dataclass(kw_only=True)
class ModelStage:
    """Base of stages with a model.

    Attributes:
        model: The encoder, or its directory, which is then loaded when it is first needed.
        reads: What of a page is encoded: "text", or the name of another value of the items, such as "image".
        windows: Whether a text longer than the model's window is cut into several; else its start is read.
        overlap: Share of a window that the next one repeats.
        identity: Hash of the model that made the index; checked when the model is loaded.
    """

    kind: ClassVar[str]
    model: Any
    reads: str = "text"
    windows: bool = True
    overlap: float = OVERLAP
    identity: str = ""
    loaded: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _expect(self.overlap, "overlap", 0.9)

    def encoder(self, found: Any = None) -> Any:
        """The encoder, loaded at the first call.

        Args:
            found: The model, where another stage has loaded it from the same directory.

        Raises:
            InputError: It is not the one that the index was made by; names both.
        """
        if self.loaded is None:
            if found is None:
                found = self.load(self.model) if isinstance(self.model, str | Path) else self.model
            held = weights_identity(found) if isinstance(found, Model) else ""
            if self.identity and held:
                made_by = {"model": f"that of stage {self.kind}", "identity": self.identity}
                check_model(made_by, {"model": str(self.model), "identity": held})
            self.identity = held
            self.loaded = self.prepared(found)
        return self.loaded

    def load(self, folder: str | Path) -> Any:
        """Load the model from its directory."""
        return load_encoder(folder)

    def prepared(self, model: Any) -> Any:
        """The model as this stage uses it."""
        return model

    def encode_pages(
        self, pages: Sequence[Any], *, folder: Path | None = None, label: str | None = None, **options: Any
    ) -> Packed:
        """Encode pages whole: of a text, all its windows.

        Args:
            pages: Texts, or other items that the model takes.
            folder: Of a store where rows are kept by content; None keeps nothing.
            label: Label of a progress bar; None shows none.
            **options: For `encode_document`.

        Returns:
            Every page's vectors: `(windows, dim)` or `(tokens of all windows, dim)`.
        """
        model = self.encoder()
        parts: list[list[Any]] = [[page] for page in pages]
        if self.windows:
            prompts = getattr(model, "prompts", None) or {}
            cut = window_cutter(model, prompt=prompts.get("document"), overlap=self.overlap)
            parts = [cut(page) if isinstance(page, str) else [page] for page in pages]
        flat = [window for windows in parts for window in windows]
        if not flat:
            return Packed(values=np.zeros((0, 1), np.float32), offsets=np.zeros(1, np.int64), dim=1)
        # Rows of a user's own object cannot be told from those of another one, so they are not kept.
        inner = getattr(model, "model", model)
        weights = identity(inner) if folder is not None and isinstance(inner, Model) else None
        kept = None if weights is None else folder
        made = encode_corpus(model, flat, kept, label=label, unit="window", weights=weights, **options)
        return grouped(made, list(map(len, parts)))

    def encode_queries(self, queries: Sequence[Any]) -> Any:
        """Encode queries: `(queries, dim)`, or token vectors of each."""
        return self.encoder().encode_query(list(queries), show_progress_bar=False)

    def facts(self) -> dict[str, Any]:
        """The settings as JSON, without the model."""
        return {"reads": self.reads, "windows": self.windows, "overlap": self.overlap, "identity": self.identity}


@dataclass(kw_only=True)
class DenseStage(ModelStage):
    """One vector a window; a page is as close as its closest window.

    Attributes:
        dtype: Number format of the vectors on disk.

    Example:
        >>> items = [{"id": f"pump.pdf#{page}", "text": text} for page, text in enumerate(pages, start=1)]
        >>> retriever = Retriever.build(items, [DenseStage(model=model)])
        >>> retriever.search("how hot does it get", top_k=1)[0].id
        'pump.pdf#2'
    """

    kind: ClassVar[str] = "dense"
    dtype: str = "float16"

    def facts(self) -> dict[str, Any]:
        """The settings as JSON, without the model."""
        return {**super().facts(), "dtype": self.dtype}


@dataclass(kw_only=True)
class SparseStage(ModelStage):
    """Weights of a vocabulary's words (SPLADE), compared by an inverted index; one row a page.

    Attributes:
        dtype: Number format of the weights on disk: "float32", "float16" or "uint8".

    Example:
        >>> items = [{"id": f"pump.pdf#{page}", "text": text} for page, text in enumerate(pages, start=1)]
        >>> retriever = Retriever.build(items, [SparseStage(model=sparse)])
        >>> len(retriever.search("how hot does it get"))
        2
    """

    kind: ClassVar[str] = "sparse"
    dtype: Weights = "float16"

    def load(self, folder: str | Path) -> SparseEncoder:
        """Load a sparse encoder, or make one of a masked-language model."""
        return SparseEncoder(str(folder))

    def encode_pages(
        self, pages: Sequence[Any], *, folder: Path | None = None, label: str | None = None, **options: Any
    ) -> Packed:
        """Encode pages whole, to one sparse row each; a page without text shares nothing with a query."""
        made = super().encode_pages(pages, folder=folder, label=label, **options)
        assert made.offsets is not None
        empty = np.array([isinstance(page, str) and not page.strip() for page in pages], dtype=bool)
        made.values[np.repeat(empty, np.diff(made.offsets))] = 0
        return made

    def facts(self) -> dict[str, Any]:
        """The settings as JSON, without the model."""
        return {**super().facts(), "dtype": self.dtype}


@dataclass(kw_only=True)
class LateStage(ModelStage):
    """Token vectors of all windows, compared by MaxSim on the candidates.

    Attributes:
        codec: How token vectors are kept, see `token_codec`.
        pooled: Pooled vectors a page, by which this stage finds candidates of its own; 0 for none.
        candidates: Pages that this stage proposes, and at most those of each other stage.

    Example:
        >>> items = [{"id": f"pump.pdf#{page}", "text": text} for page, text in enumerate(pages, start=1)]
        >>> retriever = Retriever.build(items, [LateStage(model=model)])  # or a MultiVectorEncoder
        >>> retriever.search("how hot does it get", top_k=1)[0].id
        'pump.pdf#2'
    """

    kind: ClassVar[str] = "late"
    codec: Codec = "float16"
    pooled: int = POOLED
    candidates: int = CANDIDATES

    def prepared(self, model: Any) -> Any:
        """A dense encoder's token vectors; any other as it is."""
        return TokenVectors(model) if isinstance(model, SentenceTransformer) else model

    def facts(self) -> dict[str, Any]:
        """The settings as JSON, without the model."""
        return {**super().facts(), "codec": self.codec, "pooled": self.pooled, "candidates": self.candidates}


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Fusion of the scores of several stages into one.

    Attributes:
        weights: Weight of every stage by its kind, such as `{"lexical": 0.2, "late": 0.8}`.
        method: "z" adds z-scores, each stage's scaled over the candidates of the query; "rrf" adds 1 / (k + rank).
            Scores of "lines" and "listing" are shares of 1 and are added as they are: their weight is in deviations.
        k: Of reciprocal ranks.

    Source:
        Cormack et al. 2009 for reciprocal ranks. Where one stage is much stronger, scores fuse better than ranks:
        0.780 against 0.712 on the demo (BM25 and a finetuned dense model).

    Example:
        >>> fusion = Fusion(weights={"lexical": 0.2, "dense": 0.8})
        >>> scores = {"lexical": np.float32([9.0, 1.0]), "dense": np.float32([0.2, 0.6])}  # of two pages
        >>> fusion(scores).round(2)
        array([-0.6,  0.6], dtype=float32)
    """

    weights: Mapping[str, float]
    method: Literal["z", "rrf"] = "z"
    k: int = 60

    def __post_init__(self) -> None:
        if self.method not in ("z", "rrf"):
            raise InputError(f"method: expected 'z' or 'rrf', got {self.method!r}")
        values = list(self.weights.values())
        if not all(_is_number(weight, MOST_WEIGHT) for weight in values) or not any(values):
            raise InputError(f"weights: expected numbers from 0, one of them positive, got {dict(self.weights)}")
        _expect(self.k, "k")
        if self.method == "rrf" and set(self.weights) & REFINING:
            raise InputError(f"method: expected 'z' with weights of {sorted(REFINING)}, which have no ranks, got 'rrf'")

    def __call__(self, scores: Mapping[str, Scores]) -> Scores:
        """Fuse the scores `(candidates,)` of every stage; `MISSING` counts as the stage's lowest."""
        total: Scores | None = None
        for kind, part in self.parts(scores).items():
            added = (self.weights[kind] * part).astype(np.float32)
            total = added if total is None else total + added
        assert total is not None, "weights are not empty"
        return total

    def parts(self, scores: Mapping[str, Scores]) -> dict[str, NDArray[np.float64]]:
        """Scores to be weighed: those of every stage `(candidates,)`, made comparable."""
        made = {}
        for kind in self.weights:
            found = scores[kind].astype(np.float64)
            there = found > MISSING
            found[~there] = found[there].min() if there.any() else 0.0
            if kind in REFINING:
                part = found
            elif self.method == "rrf":
                order = np.argsort(-found, kind="stable")
                ranks = np.empty(len(found))
                ranks[order] = np.arange(1, len(found) + 1)
                part = np.where(there, 1 / (self.k + ranks), 0.0)
            else:
                part = (found - found.mean()) / (found.std() + 1e-9) if len(found) else found
            made[kind] = part
        return made


@dataclass(kw_only=True)
class RerankStage:
    """A cross encoder that orders the first pages anew.

    Attributes:
        model: The `CrossEncoder`, or its directory.
        depth: Pages of a query that it scores.

    Example:
        >>> from omnitune.retrieval.stages import LexicalStage
        >>> items = [{"id": f"pump.pdf#{page}", "text": text} for page, text in enumerate(pages, start=1)]
        >>> retriever = Retriever.build(items, [LexicalStage()], rerank=RerankStage(model=reranker, depth=2))
        >>> "rerank" in retriever.search("grease the bearing", explain=True)[0].stages
        True
    """

    kind: ClassVar[str] = "rerank"
    model: Any
    depth: int = 20
    loaded: Any = field(default=None, repr=False)

    def scores(self, query: str, texts: Sequence[str]) -> Scores:
        """Score of every text for a query `(texts,)`.

        Raises:
            InputError: A score is NaN or infinite.
        """
        if self.loaded is None:
            self.loaded = load_encoder(self.model) if isinstance(self.model, str | Path) else self.model
        made = self.loaded.predict([(query, text) for text in texts], show_progress_bar=False)
        try:
            scores: Scores = np.asarray(made, dtype=np.float32).reshape(len(texts))
        except (TypeError, ValueError) as error:
            raise InputError(f"rerank: expected one score of the model for each text, got {str(made)[:80]}") from error
        if not np.isfinite(scores).all():
            raise InputError("rerank: expected finite scores of the model, got NaN or infinity")
        return scores

    def facts(self) -> dict[str, Any]:
        """The settings as JSON, without the model."""
        return {"depth": self.depth}


Stage = LexicalStage | LineStage | ListingStage | DenseStage | SparseStage | LateStage
KINDS: Mapping[str, type] = {
    one.kind: one for one in (LexicalStage, LineStage, ListingStage, DenseStage, SparseStage, LateStage)
}


def index_of(stage: Stage, segments: Segments, settings: Mapping[str, Any]) -> SegmentedIndex:
    """The index of a stage over a retriever's pages; its settings are those it was made with."""
    prefix = f"{stage.kind}."
    if isinstance(stage, LexicalStage):
        return LexicalIndex(segments, prefix=prefix, k1=stage.k1, b=stage.b)
    if isinstance(stage, LineStage):
        return LineIndex(segments, prefix=prefix, beta=stage.beta)
    if isinstance(stage, ListingStage):
        return ListingIndex(segments, prefix=prefix)
    if isinstance(stage, LateStage):
        return LateIndex(segments, prefix=prefix, **(settings or {"codec": stage.codec, "pooled": stage.pooled}))
    if isinstance(stage, SparseStage):
        return SparseIndex(segments, prefix=prefix, **(settings or {"dtype": stage.dtype}))
    return DenseIndex(segments, prefix=prefix, **(settings or {"dtype": stage.dtype}))
