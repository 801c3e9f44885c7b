"""The ladder of a report: every retriever on the test, beside lexical search."""

from collections.abc import Callable, Mapping

import numpy as np

from omnitune.documents.dataset import DocumentDataset
from omnitune.finetune.candidates import LEXICAL
from omnitune.finetune.measure import METRIC, QueryMetrics, TestSet, contrast, interval
from omnitune.finetune.retriever import RetrieverSteps, load_ladder
from omnitune.ops.bm25 import words
from omnitune.report.ladder import Asked, Failure, Ladder, Rung, Trial
from omnitune.report.parts import Contrast, Interval, Page
from omnitune.retrieval.lines import leader_share

MOSTLY_LISTING = 0.3
"""Dotted leaders a line from which a page is a table of contents."""


def describe_ladder(made: RetrieverSteps, show: Callable[[int], Page], count: int = 10) -> Ladder:
    """Describe what the steps `retriever` and `ladder` found, with intervals.

    Args:
        made: The steps.
        show: Makes a page of the report from its row.
        count: Failures to show.
    """
    chosen, measured = made.steps.done["retriever"].result, made.steps.done["ladder"].result
    tests, settings = made.sets.tests(), made.evaluation
    found = load_ladder(made.out / "ladder.npz", measured["rungs"], list(tests))
    lexical, own = found.get(LEXICAL), found[chosen["name"]]
    standings = {one["name"]: one for one in [*chosen["standings"], chosen["chosen"]]}

    def asked(rung: str, name: str) -> Asked | None:
        if name not in tests:
            return None
        both = None
        if lexical is not None and rung != LEXICAL:
            both = contrast(lexical[name], found[rung][name], tests[name], settings, label=name, dim=0)
        far = f"{name} in all"
        return Asked(
            ndcg=interval(np.asarray(found[rung][name].metrics[METRIC]), tests[name], settings),
            difference=None if both is None else both.difference,
            p_value=None if both is None else both.p_value,
            all_pages=interval(np.asarray(found[rung][far].metrics[METRIC]), tests[far], settings),
        )

    def beside(other: Mapping[str, QueryMetrics] | None, name: str, label: str) -> Contrast | None:
        if other is None or name not in tests:
            return None
        return contrast(other[name], own[name], tests[name], settings, label=label, dim=0)

    rungs = []
    for rung in sorted(measured["rungs"], key=lambda one: measured["costs"][one][0]):
        titles = asked(rung, "titles")
        assert titles is not None, "there are always titles"
        weights = standings[rung]["weights"] if rung in standings else {}
        several = len(weights) > 1
        judged = rung in standings and not standings[rung]["trained"]
        rungs.append(
            Rung(
                name=rung,
                weights=", ".join(f"{kind} {weight:g}" for kind, weight in weights.items()) if several else "",
                chosen=rung == chosen["name"],
                titles=titles,
                questions=asked(rung, "questions"),
                bytes_per_page=measured["costs"][rung][0],
                milliseconds=measured["costs"][rung][1],
                validation=standings[rung]["value"] if judged else None,
            )
        )
    counted = " and ".join(f"{count:,} {name}" for name, count in chosen["validation"].items())
    # The dense rung that titles and questions together like best: what somebody would deploy without a ladder.
    alone = [rung for rung in found if rung.startswith("dense") and (rung not in standings or
             len(standings[rung]["weights"]) == 1) and rung != chosen["name"]]  # fmt: skip
    near = [name for name in ("titles", "questions") if name in tests]
    dense = max(alone, key=lambda rung: sum(found[rung][name].mean(METRIC) for name in near), default=None)
    scans = load_ladder(made.out / "ladder.npz", [f"{one}, as scans" for one in measured["scans"]], near)
    return Ladder(
        rungs=rungs,
        headline=beside(lexical, "titles", chosen["name"]),
        asked=beside(lexical, "questions", chosen["name"]),
        dense=[
            one
            for name in near
            if dense is not None and (one := beside(found[dense], name, f"{name}, {dense}")) is not None
        ],
        scans=[
            contrast(
                found[one][name], scans[f"{one}, as scans"][name], tests[name], settings, label=f"{one}, {name}", dim=0
            )
            for one in measured["scans"]
            for name in near
        ],  # fmt: skip
        trained=[
            Trial(name=one["name"], value=one["value"], difference=Interval(one["mean"], one["low"], one["high"]))
            for one in chosen["trained"]
        ],
        failures=failures(own, lexical, tests, made.dataset, show, count),
        wall=(measured["wall"][0], measured["wall"][1]),
        name=chosen["name"],
        why=chosen["why"],
        queries=len(tests["titles"].queries),
        questions=len(tests["questions"].queries) if "questions" in tests else 0,
        validation=f"{counted} of {made.sets.sides}",
    )


def failures(
    own: Mapping[str, QueryMetrics],
    lexical: Mapping[str, QueryMetrics] | None,
    tests: Mapping[str, TestSet],
    dataset: DocumentDataset,
    show: Callable[[int], Page],
    count: int,
) -> list[Failure]:
    """Queries whose right page is not first, the worst first; questions before titles, because they tell more."""
    made: list[Failure] = []
    texts = dataset.page_texts
    for name in [one for one in ("questions", "titles") if one in tests]:
        found, queries = own[name], tests[name].queries
        order = [int(one) for one in np.argsort(-found.rank, kind="stable") if found.rank[one] > 1]
        for query in order[: count - len(made) if name == "titles" else -(-count // 2)]:
            right, first = int(found.best[query]), int(found.first[query])
            made.append(
                Failure(
                    query=queries[query],
                    expected=show(right),
                    rank=int(found.rank[query]),
                    lexical_rank=None if lexical is None else int(lexical[name].rank[query]),
                    first=show(first),
                    why=_why(queries[query], texts[right], texts[first], dataset.kind.words.page),
                )
            )
    return made


def _why(query: str, right: str, first: str, noun: str) -> str:
    asked = set(words(query))
    ours, theirs = (len(asked & set(words(text))) for text in (right, first))
    listed = leader_share(first)
    if listed > MOSTLY_LISTING:
        return f"The {noun} in front lists other {noun}s."
    said = f"Of {len(asked)} words of the query the right {noun} holds {ours}, the one in front {theirs}"
    if theirs > ours:
        return f"{said}: it uses the words, the right one says it otherwise."
    return f"{said}: words do not tell them apart."
