"""The ladder of a report: every retriever on the test, beside lexical search."""

from collections.abc import Mapping

import numpy as np

from omnitune.finetune.candidates import LEXICAL
from omnitune.finetune.measure import METRIC, QueryMetrics, TestSet, contrast, interval
from omnitune.finetune.recipe import Evaluation
from omnitune.finetune.retriever import RetrieverSteps, load_ladder
from omnitune.report.results import Asked, Ladder, Rung


def describe_ladder(made: RetrieverSteps) -> Ladder:
    """What the steps `retriever` and `ladder` found, with intervals."""
    chosen, measured = made.steps.done["retriever"].result, made.steps.done["ladder"].result
    tests, settings = made.tests(), made.evaluation
    found = load_ladder(made.out / "ladder.npz", measured["rungs"], list(tests))
    lexical = found.get(LEXICAL)
    standings = {one["name"]: one for one in chosen["standings"]}

    def asked(rung: str, name: str) -> Asked | None:
        if name not in tests:
            return None
        return _asked(found[rung], lexical if rung != LEXICAL else None, tests, name, settings)

    rungs = []
    for rung in sorted(measured["rungs"], key=lambda one: measured["costs"][one][0]):
        titles = asked(rung, "titles")
        assert titles is not None, "there are always titles"
        weights = standings[rung]["weights"] if rung in standings else {}
        several = len(weights) > 1
        rungs.append(
            Rung(
                name=rung,
                weights=", ".join(f"{kind} {weight:g}" for kind, weight in weights.items()) if several else "",
                chosen=rung == chosen["name"],
                titles=titles,
                questions=asked(rung, "questions"),
                bytes_per_page=measured["costs"][rung][0],
                milliseconds=measured["costs"][rung][1],
                validation=standings[rung]["value"] if rung in standings else None,
            )
        )
    counted = " and ".join(f"{count:,} {name}" for name, count in chosen["validation"].items())
    side = "validation" if chosen["held_out"] else "training"
    headline = None
    if lexical is not None:
        after = found[chosen["name"]]["titles"]
        headline = contrast(lexical["titles"], after, tests["titles"], settings, label=chosen["name"], dim=0)
    return Ladder(
        rungs=rungs,
        headline=headline,
        name=chosen["name"],
        why=chosen["why"],
        queries=len(tests["titles"].queries),
        questions=len(tests["questions"].queries) if "questions" in tests else 0,
        validation=f"{counted} of {side} {made.dataset.kind.words.document}s",
    )


def _asked(
    found: Mapping[str, QueryMetrics],
    lexical: Mapping[str, QueryMetrics] | None,
    tests: Mapping[str, TestSet],
    name: str,
    settings: Evaluation,
) -> Asked:
    both = None
    if lexical is not None:
        both = contrast(lexical[name], found[name], tests[name], settings, label=name, dim=0)
    far = f"{name} in all"
    return Asked(
        ndcg=interval(np.asarray(found[name].metrics[METRIC]), tests[name], settings),
        difference=None if both is None else both.difference,
        p_value=None if both is None else both.p_value,
        all_pages=interval(np.asarray(found[far].metrics[METRIC]), tests[far], settings),
    )
