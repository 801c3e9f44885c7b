"""Candidates of a query: the pages that stages propose, and every stage's scores of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune.retrieval.base import MISSING, SegmentedIndex, best_rows
from omnitune.retrieval.late_index import LateIndex
from omnitune.retrieval.lines import LineIndex, ListingIndex
from omnitune.retrieval.stages import REFINING, LateStage, ModelStage, Scores, Stage, TokenVectors

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
