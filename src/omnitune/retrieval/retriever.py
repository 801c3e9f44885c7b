"""A retriever: stages, their models and one index, in a folder (see `retriever_folder`) that opens in a line."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import numpy as np

from omnitune import folders, io
from omnitune.documents.sources import note_source, signed_sources
from omnitune.errors import InputError, ResourceError
from omnitune.places import RETRIEVER
from omnitune.retrieval.base import SegmentedIndex, check_top_k
from omnitune.retrieval.candidates import hits_of, propose
from omnitune.retrieval.hits import Hit
from omnitune.retrieval.lexical import LexicalIndex
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.pages import PageFiles, as_page, pages_of_folder, value_of
from omnitune.retrieval.retriever_folder import facts_of, read_parts, stamp, write_facts, write_models
from omnitune.retrieval.segments import CHANGING, Part, Segments, Where
from omnitune.retrieval.stages import (
    REFINING,
    Fusion,
    ModelStage,
    RerankStage,
    Stage,
    index_of,
)

PAGES_AT_ONCE = 1024
"""Pages that are encoded and written together: what a stop can lose, and what is held in memory."""

Query = str | Mapping[str, Any]
"""A text, or text and media by their modality."""

_DETAILS = ("text", "boxes")
"""Values of a page that results show and no filter reads."""


class Retriever:
    """Finds pages by several stages.

    Make one with `build`, or open one with `open`.

    Args:
        stages: At most one of each kind: `LexicalStage`, `DenseStage`, `SparseStage`, `LateStage`, and to refine what
            these propose `LineStage`, `ListingStage`.
        fusion: How their scores become one; None where there is one stage.
        rerank: Orders the first pages anew.
        segments: The pages.
        language: Of pages or speech that `add` has to recognise, as the reader names it; None takes English.

    Raises:
        InputError: There is no stage, two are of one kind, or the fusion names others than there are.

    Example:
        >>> from omnitune.retrieval.stages import DenseStage
        >>> retriever = Retriever.build([{"id": "pump.pdf#1", "text": pages[0]}], [DenseStage(model=model)])
        >>> retriever.search("how often is it greased", top_k=1)[0].id
        'pump.pdf#1'
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        *,
        fusion: Fusion | None = None,
        rerank: RerankStage | None = None,
        segments: Segments | None = None,
        language: str | None = None,
    ) -> None:
        self.stages: dict[str, Stage] = {stage.kind: stage for stage in stages}
        if not stages or len(self.stages) != len(stages):
            raise InputError(f"stages: expected one or more, each of another kind, got {[s.kind for s in stages]}")
        if not set(self.stages) - REFINING:
            raise InputError(f"stages: expected one that proposes pages, got {list(self.stages)}, which refine others")
        if fusion is None and len(stages) > 1:
            fusion = Fusion(weights=dict.fromkeys(self.stages, 1.0))
        if fusion is not None and set(fusion.weights) - set(self.stages):
            raise InputError(f"fusion: expected weights of {list(self.stages)}, got {dict(fusion.weights)}")
        self.fusion, self.rerank, self.language = fusion, rerank, language
        self.segments = Segments() if segments is None else segments
        self.files = PageFiles()
        self._sources: list[Path] = []  # folders of documents that `add` read, the newest last
        self._made: tuple[int, int] | None = None
        self._documents: tuple[dict[str, tuple[int, int]], list[str]] | None = None
        settings = self.segments.settings.get("stages", {})
        self.indexes: dict[str, SegmentedIndex] = {
            kind: index_of(stage, self.segments, settings.get(kind, {})) for kind, stage in self.stages.items()
        }

    # -- make, open, save

    @classmethod
    def build(
        cls,
        items: Iterable[Mapping[str, Any]] | str | Path,
        stages: Sequence[Stage],
        *,
        fusion: Fusion | None = None,
        rerank: RerankStage | None = None,
        cache: str | Path | None = None,
        encoded: Mapping[str, Packed] | None = None,
        show_progress: bool | None = None,
        **options: Any,
    ) -> "Retriever":
        """Make a retriever of pages, in memory; `save` writes it to a folder.

        Args:
            items: Pages as dicts with `id`, `document`, `page`, `text`, and whatever else filters and results show
                (JSON values): `label`, `path`, `boxes`, ...; or a folder of documents.
            stages: What looks for pages.
            fusion: How their scores become one; None weighs several stages equally.
            rerank: Orders the first pages anew.
            cache: Folder of a store where encoded windows are kept by content, such as that of the measurements.
            encoded: Vectors of all pages by stage, where they are known already.
            show_progress: Whether to show bars; None decides by the terminal.
            **options: For `encode_document`, such as `batch_size`.

        Example:
            >>> from omnitune.retrieval.stages import Fusion, LateStage, LexicalStage
            >>> items = [{"id": f"pump.pdf#{page}", "text": text} for page, text in enumerate(pages, start=1)]
            >>> fusion = Fusion(weights={"lexical": 0.2, "late": 0.8})
            >>> retriever = Retriever.build(items, [LexicalStage(), LateStage(model=model)], fusion=fusion)
            >>> len(retriever), retriever.documents
            (2, ['pump.pdf'])
        """
        made = cls(stages, fusion=fusion, rerank=rerank)
        made.add(items, cache=cache, encoded=encoded, show_progress=show_progress, **options)
        return made

    @classmethod
    def open(cls, folder: str | Path, *, files: str | Path | Sequence[str | Path] = ()) -> "Retriever":
        """Open a retriever. Its index is mapped, not read, and models are loaded when they are first needed.

        Args:
            folder: That `save` or `omnitune finetune` wrote.
            files: Folders of page images and segments beside its own and its run's; no path leads elsewhere.

        Raises:
            InputError: The folder is no whole retriever, or its facts are not those that `save` writes.

        Example:
            >>> from omnitune.retrieval.stages import LexicalStage
            >>> Retriever.build([{"id": "pump.pdf#1", "text": pages[0]}], [LexicalStage()]).save("retriever")
            >>> Retriever.open("retriever").search("bearing")[0].id
            'pump.pdf#1'
        """
        place = Path(folder)
        opened = cls(**read_parts(place), segments=Segments.open(place / "index"))
        named = [files] if isinstance(files, str | Path) else files
        opened._made = stamp(place)
        opened.files = PageFiles.of_opened(place, *map(Path, named))
        return opened

    def save(self, folder: str | Path) -> None:
        """Write the retriever to a folder; what `add` and `remove` do from then on is written there at once.

        Raises:
            ResourceError: The disk is full, or the folder cannot be written to.

        Example:
            >>> from omnitune.retrieval.stages import LexicalStage
            >>> Retriever.build([{"id": "pump.pdf#1", "text": pages[0]}], [LexicalStage()]).save("retriever")
            >>> len(Retriever.open("retriever"))
            1
        """
        place = folders.writable_folder(Path(folder))
        with folders.locked(place / "index", task=CHANGING):
            self._save(place)

    def _save(self, place: Path) -> None:
        io.remove_file(place / RETRIEVER)  # cut short, it is no retriever, rather than one of old and new parts
        write_models(place, self.stages, self.rerank)
        self._describe()
        self.segments.save(place / "index", held=True)
        if self.files.folder is None:
            self.files.folder = place
        for source in [*reversed(signed_sources(self.files.folder)), *self._sources]:  # the newest is noted last
            note_source(place, source)
        write_facts(place, facts_of(self.stages, self.fusion, self.rerank, self.language), len(self))
        if self.segments.folder == place / "index":
            self._made = stamp(place)

    def _describe(self) -> None:
        settings = {kind: index.settings for kind, index in self.indexes.items()}
        self.segments.settings = {"kind": "retriever", "made_by": {}, "stages": settings, "settings": {}}

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def folder(self) -> Path | None:
        """Folder in which it was opened or saved; None while it is in memory alone."""
        return self.files.folder

    @property
    def documents(self) -> list[str]:
        """Names of the documents, in the order of their first pages."""
        ids = self.segments.ids()
        if self._documents is None or self._documents[0] is not ids:
            entries = (self.segments.parts[part].entry(row) for part, row in ids.values())
            self._documents = ids, list(dict.fromkeys(str(entry["document"]) for entry in entries))
        return [*self._documents[1]]

    def only(self, weights: Mapping[str, float]) -> "Retriever":
        """The same pages found by some of the stages; nothing is encoded or copied.

        Args:
            weights: Of the stages to keep; several are fused by z-scores.
        """
        self._describe()
        left_out = tuple(f"{kind}." for kind in self.stages.keys() - weights.keys())
        segments = Segments()
        segments.settings = {
            **self.segments.settings,
            "stages": {kind: index.settings for kind, index in self.indexes.items() if kind in weights},
        }
        for part in self.segments.parts:
            arrays = {name: array for name, array in part.arrays.items() if not name.startswith(left_out)}
            segments.parts.append(Part(name=part.name, arrays=arrays, alive=part.alive.copy()))
        stages = [stage for kind, stage in self.stages.items() if kind in weights]
        return Retriever(stages, fusion=Fusion(weights=weights) if len(stages) > 1 else None, segments=segments)

    # -- change

    def add(
        self,
        items: Iterable[Mapping[str, Any]] | str | Path,
        *,
        cache: str | Path | None = None,
        encoded: Mapping[str, Packed] | None = None,
        show_progress: bool | None = None,
        **options: Any,
    ) -> int:
        """Read, encode and index pages; a page that is there unchanged is passed over, one that changed is replaced.

        Args:
            items: Pages (see `build`), or a folder of documents.
            cache: See `build`.
            encoded: See `build`.
            show_progress: See `build`.
            **options: For `encode_document`.

        Returns:
            How many pages were encoded.

        Raises:
            InputError: A page has no id, or two have the same; the embeddings of one are not finite.
            ResourceError: The disk is full, or another process is changing the retriever.

        Example:
            >>> from omnitune.retrieval.stages import LexicalStage
            >>> retriever = Retriever.build([{"id": "pump.pdf#1", "text": pages[0]}], [LexicalStage()])
            >>> retriever.add([{"id": "pump.pdf#1", "text": pages[0]}, {"id": "oven.pdf#1", "text": pages[1]}])
            1
        """
        source: Path | None = None
        if isinstance(items, str | Path):
            source = Path(items)
            place = None if self.folder is None else self.folder / "pages"
            items = pages_of_folder(source, place, language=self.language, show_progress=show_progress)
        pages = [as_page(item, number) for number, item in enumerate(items)]
        known = self.segments.ids()
        new = [number for number, page in enumerate(pages) if not self._holds(page, known)]
        pages = [pages[number] for number in new]
        folder = None if cache is None else Path(cache)
        for start in range(0, len(pages), PAGES_AT_ONCE):
            some, rows = pages[start : start + PAGES_AT_ONCE], new[start : start + PAGES_AT_ONCE]
            arrays: dict[str, Any] = {}
            for kind, stage in self.stages.items():
                index = self.indexes[kind]
                if not isinstance(stage, ModelStage):
                    arrays |= index.pack([page["text"] for page in some])
                elif encoded is not None and kind in encoded:
                    arrays |= index.pack(encoded[kind].take(np.array(rows, dtype=np.int64)))
                else:
                    label = None if show_progress is False else f"Encoding ({kind})"
                    read = [value_of(page, stage.reads) for page in some]
                    arrays |= index.pack(stage.encode_pages(read, folder=folder, label=label, **options))
            kept = [{name: value for name, value in page.items() if name not in _DETAILS} for page in some]
            details = [{name: page[name] for name in _DETAILS if name in page} for page in some]
            with self._changing():
                self.segments.append(kept, details, arrays)
        if source is not None:
            self._sources.append(source)
            if self.folder is not None:
                note_source(self.folder, source)
        return len(pages)

    def _holds(self, page: Mapping[str, Any], known: Mapping[str, tuple[int, int]]) -> bool:
        place = known.get(page["id"])
        return place is not None and self.segments.parts[place[0]].entry(place[1])["content"] == page["content"]

    def remove(self, ids: Iterable[str] | str = (), *, document: str | Sequence[str] | None = None) -> int:
        """Remove pages.

        Args:
            ids: Of pages.
            document: All pages of this document, or of several.

        Returns:
            How many were removed.

        Example:
            >>> from omnitune.retrieval.stages import LexicalStage
            >>> retriever = Retriever.build([{"id": "pump.pdf#1", "text": pages[0]}], [LexicalStage()])
            >>> retriever.remove(document="pump.pdf"), len(retriever)
            (1, 0)
        """
        wanted = {ids} if isinstance(ids, str) else set(ids)
        if document is not None:
            names = {document} if isinstance(document, str) else set(document)
            wanted |= {
                one
                for one, (part, row) in self.segments.ids().items()
                if self.segments.parts[part].entry(row)["document"] in names
            }
        with self._changing():
            return self.segments.remove(wanted)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the index, of the retriever that was opened: vectors of its models fit no other one's."""
        self._describe()
        with self.segments.changing():
            place = None if self.segments.folder is None else self.segments.folder.parent
            if place is not None and stamp(place) != self._made:
                raise ResourceError(
                    f"{place}: another process has made this retriever anew; open it again, or run the same again"
                )
            yield

    # -- search

    @overload
    def search(
        self, query: Query, top_k: int = 10, where: Where | None = None, *, explain: bool = False
    ) -> list[Hit]: ...
    @overload
    def search(
        self, query: list[str] | list[Query], top_k: int = 10, where: Where | None = None, *, explain: bool = False
    ) -> list[list[Hit]]: ...
    def search(
        self,
        query: Query | list[str] | list[Query],
        top_k: int = 10,
        where: Where | None = None,
        *,
        explain: bool = False,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the pages that answer a query.

        Args:
            query: A text, or a list of them; where all stages have models that take it, also a dict such as
                `{"image": "photo.jpg"}`, which a reranker does not order anew.
            top_k: Pages to find.
            where: Values that pages must have, such as `{"document": "a.pdf"}` or `{"document": ["a.pdf", "b.pdf"]}`.
            explain: Whether hits say which stage and which words found them.

        Returns:
            Hits, best first; for a list of queries a list of them.

        Raises:
            InputError: A query says nothing, `top_k` is not positive, or `where` names a value that no page has.

        Example:
            >>> from omnitune.retrieval.stages import DenseStage
            >>> items = [{"id": "pump.pdf#1", "text": pages[0]}, {"id": "oven.pdf#1", "text": pages[1]}]
            >>> retriever = Retriever.build(items, [DenseStage(model=model)])
            >>> retriever.search("how often is it greased", where={"document": ["pump.pdf", "oven.pdf"]})[0].id
            'pump.pdf#1'
        """
        single = not isinstance(query, list)
        queries: list[Query] = list(query) if isinstance(query, list) else [query]
        media = all(isinstance(stage, ModelStage) for stage in self.stages.values())
        for place, one in enumerate(queries):
            said = one.strip() if isinstance(one, str) else media and isinstance(one, Mapping) and one
            if not said:
                shown = repr(one)[:80]
                raise InputError(f"query: expected text to look for, got {shown} as number {place}")
        check_top_k(top_k)
        allowed = self.segments.allowed(where)
        if not queries or not allowed.any():
            nothing: list[list[Hit]] = [[] for _ in queries]
            return [] if single else nothing
        proposed = propose(self.stages, self.indexes, queries, top_k, allowed)
        found = [
            hits_of(
                one,
                candidates,
                scores,
                top_k,
                segments=self.segments,
                files=self.files,
                fusion=self.fusion,
                rerank=self.rerank,
                lexical=self.indexes.get(LexicalIndex.kind),
                explain=explain,
            )
            for one, (candidates, scores) in zip(queries, proposed, strict=True)
        ]
        return found[0] if single else found
