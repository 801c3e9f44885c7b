"""Candidates of a query: the pages that stages propose, every stage's scores of them, and the hits they become."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune.ops.bm25 import words
from omnitune.retrieval.base import MISSING, SegmentedIndex, best_rows
from omnitune.retrieval.hits import Hit, page_words
from omnitune.retrieval.late_index import LateIndex
from omnitune.retrieval.lexical import LexicalIndex
from omnitune.retrieval.lines import LineIndex, ListingIndex
from omnitune.retrieval.pages import PageFiles
from omnitune.retrieval.segments import Segments
from omnitune.retrieval.stages import REFINING, Fusion, LateStage, ModelStage, RerankStage, Scores, Stage
from omnitune.retrieval.token_vectors import TokenVectors

PROPOSED = 256
"""Pages of a query that each stage proposes, unless a late stage says otherwise."""

_BY_WORDS = ("lexical", "sparse")
"""Stages that find a page by what it shares with the query."""


def propose(
    stages: Mapping[str, Stage],
    indexes: Mapping[str, SegmentedIndex],
    queries: Sequence[Any],
    top_k: int,
    allowed: NDArray[np.bool_],
) -> list[tuple[NDArray[np.int64], dict[str, Scores]]]:
    """For every query the rows that a stage proposes `(candidates,)`, and every stage's scores of them.

    Args:
        stages: By kind.
        indexes: Of each stage.
        queries: What to look for.
        top_k: Pages that will be shown; a stage proposes at least as many.
        allowed: Rows that may be found.
    """
    late = stages.get("late")
    most = max(top_k, late.candidates if isinstance(late, LateStage) else PROPOSED)
    asked = encode_queries(stages, queries)
    whole: dict[str, list[Scores]] = {}
    for kind in ("lexical", "dense", "sparse"):
        if kind in stages:
            options = {"unmatched": True} if kind in _BY_WORDS else {}
            whole[kind] = list(indexes[kind].scores(asked.get(kind, queries), allowed, **options))
    proposed = [
        [
            # A page without a word of the query is no candidate, though it has a score, 0, for the fusion.
            best_rows(
                np.where(found[number] == 0, MISSING, found[number]) if kind in _BY_WORDS else found[number], most
            )
            for kind, found in whole.items()
        ]
        for number in range(len(queries))
    ]
    if isinstance(late, LateStage):
        index = indexes["late"]
        assert isinstance(index, LateIndex)
        if late.pooled or not whole:
            own = index.propose(asked["late"], allowed, most)
            proposed = [[*others, rows] for others, rows in zip(proposed, own, strict=True)]
    rows = [np.unique(np.concatenate(some)).astype(np.int64) for some in proposed]
    if isinstance(late, LateStage):
        whole["late"] = list(indexes["late"].scores(asked["late"], allowed, rows=rows))
    for kind in stages.keys() & REFINING:
        refined = indexes[kind]
        assert isinstance(refined, LineIndex | ListingIndex)
        whole[kind] = list(refined.scores([str(query) for query in queries], allowed, rows=rows))
    return [
        (chosen, {kind: scores[number][chosen] for kind, scores in whole.items()}) for number, chosen in enumerate(rows)
    ]


def encode_queries(stages: Mapping[str, Stage], queries: Sequence[Any]) -> dict[str, Any]:
    """Encode queries for every stage with a model, by the stage's kind; one forward serves two stages of one model."""
    made: dict[str, Any] = {}
    dense, late = stages.get("dense"), stages.get("late")
    if isinstance(dense, ModelStage) and isinstance(late, LateStage):
        model = dense.encoder()
        tokens = late.encoder(model if late.model == dense.model else None)
        if isinstance(tokens, TokenVectors) and tokens.model is model:
            made["dense"], made["late"] = tokens.encode_both(queries)
    for kind, stage in stages.items():
        if isinstance(stage, ModelStage) and kind not in made:
            made[kind] = stage.encode_queries(queries)
    return made


def hits_of(
    query: str | Mapping[str, Any],
    rows: NDArray[np.int64],
    scores: Mapping[str, Scores],
    top_k: int,
    *,
    segments: Segments,
    files: PageFiles,
    fusion: Fusion | None,
    rerank: RerankStage | None,
    lexical: SegmentedIndex | None,
    explain: bool,
) -> list[Hit]:
    """Rank the candidates of one query, and say of each what it is and why it was found.

    Args:
        query: A text; or text and media, which are not reranked.
        rows: Of the candidates.
        scores: Of the candidates by stage.
        top_k: Hits to give.
        segments: The pages.
        files: Their images, for places of words.
        fusion: How scores become one; None where there is one stage.
        rerank: Orders the first candidates anew.
        lexical: Index of words, where there is one: it knows which of them tell pages apart.
        explain: Whether hits say which stage and which words found them.
    """
    kinds = list(scores)
    total = scores[kinds[0]] if fusion is None else fusion(scores)
    rerank = rerank if isinstance(query, str) else None
    order = best_rows(total, max(top_k, rerank.depth if rerank else 0))
    final = total[order]
    reranked: dict[int, float] = {}
    if isinstance(query, str) and rerank is not None and len(order):
        depth = min(rerank.depth, len(order))
        texts = [str(segments.details(int(rows[place])).get("text", "")) for place in order[:depth]]
        made = rerank.scores(query, texts)
        first = np.argsort(-made, kind="stable")
        order = np.concatenate([order[:depth][first], order[depth:]])
        final = np.concatenate([made[first], final[depth:]])
        reranked = {int(rows[place]): float(score) for place, score in zip(order, made[first], strict=False)}
    telling = lexical.telling if isinstance(lexical, LexicalIndex) else words
    asked = set(telling(query)) if explain and isinstance(query, str) else set()
    hits = []
    for rank, (place, score) in enumerate(zip(order[:top_k], final, strict=False), start=1):
        row = int(rows[place])
        entry, details = segments.entry(row), segments.details(row)
        entry.pop("content", None)
        more: dict[str, Any] = {}
        if explain:
            by_stage = {kind: float(scores[kind][place]) for kind in kinds}
            ranks = {kind: 1 + int((scores[kind] > by_stage[kind]).sum()) for kind in kinds}
            if fusion is not None:
                by_stage["fusion"] = float(total[place])
            if row in reranked:
                by_stage["rerank"] = reranked[row]
            held = set(words(str(details.get("text", ""))))
            places = page_words(details, files.of(entry)) if asked & held else []
            boxes = [box for box in places if set(words(str(box[0]))) & asked]
            more = {"stages": by_stage, "ranks": ranks, "words": sorted(asked & held), "boxes": boxes}
        hits.append(
            Hit(
                rank=rank,
                id=str(entry["id"]),
                document=str(entry["document"]),
                page=entry.get("page"),
                score=float(score),
                entry=entry,
                text=str(details.get("text", "")),
                **more,
            )
        )
    return hits
