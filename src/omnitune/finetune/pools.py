"""Retrievers with every stage that a model can serve, out of which candidates are made; nothing is encoded twice."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omnitune.documents.dataset import DocumentDataset
from omnitune.finetune.choose import ModelChoice, loading
from omnitune.finetune.measure import has_text, load_test, unit
from omnitune.finetune.windows import (
    OVERLAP,
    Windows,
    cut_pages,
    encode_windows,
    load_head,
    text_reader,
    through_head,
    with_head,
)
from omnitune.model.dense import SentenceTransformer
from omnitune.places import is_embedded
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import (
    DenseStage,
    LateStage,
    LexicalStage,
    LineStage,
    ListingStage,
    SparseStage,
    Stage,
)
from omnitune.retrieval.token_vectors import TokenVectors

PROPOSED = 32
"""Pages of a query that each stage proposes to late interaction: with those of lexical search as good on validation as
all pages (docs/decisions/082)."""

POOLED = 4
"""Pooled vectors a page that propose pages to late interaction; 16 are no better beside lexical search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model behind dense stages.

    Attributes:
        reads: "text" (all windows of the texts, and their tokens) or "images" (one vector a page).
        trained: Whether it is the run's finetuned model, or has the run's head.
        head: Whether it is the untrained model with the head for late interaction that the run trained.
    """

    reads: str
    trained: bool = False
    head: bool = False


HEAD = Source(reads="text", trained=True, head=True)
HEAD_FILE = "head.safetensors"
"""In the run's folder: the head that it trained."""


class Pools:
    """The pools of a run.

    Args:
        chosen: Model and settings.
        dataset: Pages.
        out: Folder of the run.
    """

    def __init__(self, chosen: ModelChoice, dataset: DocumentDataset, out: Path) -> None:
        self.chosen, self.dataset, self.out = chosen, dataset, out
        self.text = has_text(dataset.page_texts)
        self._made: dict[Source, Retriever] = {}

    @cached_property
    def _reader(self) -> tuple[SentenceTransformer | None, bool]:
        return text_reader(self.chosen) if self.text else (None, False)

    @cached_property
    def sources(self) -> list[Source]:
        """List the sources that there are, the untrained first."""
        made = [Source(reads="text")] if self.text else []
        # Behind its reader the embedded model is the one that reads the texts: it would be there twice.
        same = self.dataset.as_text or (self.text and is_embedded(self.chosen.name))
        images = [] if same else [Source(reads="images"), Source(reads="images", trained=True)]
        own = [Source(reads="text", trained=True)] if self._reader[1] else []
        return sorted([*made, *images, *own], key=lambda one: one.trained)

    def pool(self, source: Source) -> Retriever:
        """All pages with every stage of a source; made once."""
        if source not in self._made:
            self._made[source] = self.make(source)
        return self._made[source]

    def make(
        self, source: Source, *, texts: Sequence[str] | None = None, only: Collection[int] | None = None
    ) -> Retriever:
        """Make a pool.

        Args:
            source: Of its dense stages.
            texts: Of all pages, instead of the dataset's.
            only: Rows whose windows are encoded; the others cannot be found by dense stages. None takes all.
        """
        texts = self.dataset.page_texts if texts is None else texts
        items = self._items(texts)
        words: list[Stage] = [LexicalStage(), LineStage(), ListingStage()] if self.text else []
        if source.reads == "images":
            folder = "finetuned" if source.trained else "base"
            model = self._finetuned() if source.trained else self.chosen.load()
            sees = DenseStage(model=model, reads="path", windows=False)
            sees.encoder()
            _, pages = load_test(self.out / "embeddings" / folder)
            seen = {"dense": Packed(values=unit(pages), dim=pages.shape[1])}
            words.append(sees)
            if self.chosen.late and not source.trained:
                tokens = LateStage(model=self.chosen.load_late(), reads="path", windows=False, codec="int8",
                                   pooled=POOLED, candidates=PROPOSED)  # fmt: skip
                seen["late"] = tokens.encode_pages(
                    [item["path"] for item in items],
                    folder=self.out / "embeddings" / "tokens",
                    label=f"Encoding {self.dataset.kind.words.page}s (late interaction)",
                    batch_size=self.chosen.recipe.evaluation.batch_size,
                )
                words.append(tokens)
            return Retriever.build(items, words, encoded=seen, show_progress=False)
        wanted = [text if only is None or row in only else "" for row, text in enumerate(texts)]
        reader = self._finetuned() if source.trained and not source.head else self._reader[0]
        settings = self.chosen.recipe.retriever
        encoded: dict[str, Packed] = {}
        asked_for = settings.stages is None or "sparse" in settings.stages
        if settings.sparse is not None and asked_for and not source.trained:
            splade = SparseStage(model=settings.sparse, overlap=OVERLAP, dtype="uint8")
            size = self.chosen.recipe.evaluation.batch_size
            place = self.out / "embeddings" / "sparse"
            encoded["sparse"] = splade.encode_pages(
                wanted, folder=place, label="Encoding pages (sparse)", batch_size=size
            )
            words.append(splade)
        if reader is None:
            return Retriever.build(items, words, encoded=encoded, show_progress=False)
        windows = self._windows(reader, wanted)
        late = LateStage(model=reader, overlap=OVERLAP, codec="int8", pooled=POOLED, candidates=PROPOSED)
        stages: list[DenseStage | LateStage] = [late]
        if source.head:
            head = load_head(self.out / HEAD_FILE)
            late.model = with_head(TokenVectors(reader), head)
            encoded["late"] = through_head(windows.tokens, head)
        else:
            stages.append(DenseStage(model=reader, overlap=OVERLAP))
            encoded |= {"dense": windows.dense, "late": windows.tokens}
        for stage in stages:
            stage.encoder()
        return Retriever.build(items, [*words, *stages], encoded=encoded, show_progress=False)

    def token_vectors(self, rows: Sequence[int]) -> Packed:
        """Token vectors of some pages as untrained late interaction has them; the store has them already."""
        reader = self._reader[0]
        assert reader is not None, "there is late interaction"
        return self._windows(reader, [self.dataset.page_texts[row] for row in rows]).tokens

    def _windows(self, reader: SentenceTransformer, texts: Sequence[str]) -> Windows:
        place, size = self.out / "embeddings" / "windows", self.chosen.recipe.evaluation.batch_size
        return encode_windows(reader, cut_pages(reader, texts), place, batch_size=size)

    def _finetuned(self) -> SentenceTransformer:
        return SentenceTransformer(str(self.out / "model"), **loading(self.chosen.recipe))

    def _items(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        table = self.dataset.tables["pages"].select_columns(["page_id", "document", "number", "label"])
        return [
            {
                "id": one["page_id"],
                "document": one["document"],
                "page": one["number"],
                "times" if self.dataset.kind.segmentations else "label": one["label"],
                "path": item["path"],
                "text": text,
            }
            for one, item, text in zip(table, self.dataset.pages, texts, strict=True)
        ]
