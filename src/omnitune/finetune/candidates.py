"""Candidates for a run's retriever, and the choice among them on validation queries within budgets.

The choice sees validation queries alone. What was trained is compared on documents that its training did not see.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omnitune.errors import InputError
from omnitune.evaluation.ranking import Hits
from omnitune.finetune.measure import METRIC, QueryMetrics, Search, TestSet, score_search
from omnitune.finetune.pools import Source
from omnitune.finetune.recipe import Evaluation, Retrieving
from omnitune.ops.significance import paired_bootstrap
from omnitune.retrieval.candidates import propose
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import Fusion, Scores

LEXICAL = "lexical"
TEXT = Source(reads="text")

_GRID: Mapping[str, tuple[float, ...]] = {
    "lexical": (0.0, 0.1, 0.25, 0.5),
    "lines": (0.0, 0.5, 1.0, 2.0),
    "listing": (0.0, 1.0, 2.0, 4.0),
}
"""Weights to try beside the main stage's 1. A line that matches fully counts at most two deviations, so that titles,
which match lines, do not decide against questions, which do not."""

_FEWEST = 10
"""Validation questions below which titles decide alone."""

DEPTH = 100
"""Pages of a query that are looked at where a retriever is asked as a user asks it."""

Scored = list[tuple[NDArray[np.int64], dict[str, Scores]]]
"""Of every query, its candidate pages and every stage's scores of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A retriever that could be chosen.

    Attributes:
        name: As the report shows it.
        main: The stage that others are weighed against.
        others: Stages whose weights are chosen.
        source: The model behind its dense stages.
    """

    name: str
    main: str
    others: tuple[str, ...] = ()
    source: Source = TEXT

    def weights(self) -> Iterator[dict[str, float]]:
        """Every combination of weights, the simplest first."""
        for chosen in product(*(_GRID.get(kind, (0.25, 0.5, 1.0)) for kind in self.others)):
            # Lexical search proposes pages to late interaction whatever its weight: a millisecond, and a fifth of the
            # misses of a title (docs/decisions/082).
            kept = {k: w for k, w in zip(self.others, chosen, strict=True) if w or (k, self.main) == (LEXICAL, "late")}
            yield {self.main: 1.0, **kept}

    @property
    def stages(self) -> dict[str, float]:
        """All its stages, each with the weight 1."""
        return dict.fromkeys((self.main, *self.others), 1.0)


CANDIDATES = (
    Candidate(name=LEXICAL, main="lexical"),
    Candidate(name="lexical, lines and listings", main="lexical", others=("lines", "listing")),
    Candidate(name="dense, all windows", main="dense"),
    Candidate(name="dense, lexical, lines and listings", main="dense", others=("lexical", "lines", "listing")),
    Candidate(name="sparse", main="sparse"),
    Candidate(name="sparse, lexical, lines and listings", main="sparse", others=("lexical", "lines", "listing")),
    Candidate(name="late interaction", main="late"),
    Candidate(name="late interaction, lines and listings", main="late", others=("lexical", "lines", "listing")),
)
"""From the cheapest to the dearest."""


def candidates_for(settings: Retrieving, source: Source, there: Sequence[str], sees: str) -> list[Candidate]:
    """Candidates of a source, of which all stages are there; of the first source the one that the recipe pins.

    Args:
        settings: Of the recipe.
        source: The model behind dense stages.
        there: Stages that its pool has.
        sees: What a page is to a model, for the names.

    Raises:
        InputError: The recipe pins a stage that is not there.
    """
    if settings.stages is not None:
        if source != TEXT:
            return []
        if missing := [kind for kind in settings.stages if kind not in there]:
            raise InputError(
                f"retriever.stages: expected some of {', '.join(there)}, got {', '.join(missing)}, which are not "
                "there; sparse needs a model in retriever.sparse, dense and late one that reads text"
            )
        main = next(
            (kind for kind in ("late", "dense", "sparse", "lexical") if kind in settings.stages), settings.stages[0]
        )
        others = tuple(kind for kind in settings.stages if kind != main)
        return [Candidate(name=", ".join(settings.stages), main=main, others=others)]
    found = [one for one in CANDIDATES if {one.main, *one.others} <= set(there)]
    if source == TEXT:
        return found
    made = []
    for one in found:
        if one.main in ("dense", "late"):
            first = {"dense": "dense", "late": "late interaction"}[one.main]
            name = one.name if source.reads == "text" else one.name.replace(first, f"{first} on the {sees}")
            name = name.replace(", all windows", "") if source.reads != "text" else name
            how = ", with a head" if source.head else ", finetuned" if source.trained else ""
            made.append(replace(one, name=f"{name}{how}", source=source))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A candidate as it stood on validation.

    Attributes:
        name: Of the candidate.
        reads: What its dense stages read ("text" or "images").
        trained: Whether they are the finetuned model's, or have the run's head.
        weights: Of its stages: the best of all that were tried.
        value: Mean of `titles` and `questions`, by which it is chosen.
        titles: NDCG@10 of titles.
        questions: NDCG@10 of questions; None without them.
        low: Lower end of the interval of its difference to lexical search, or of a trained one to the best of those
            that were trained on nothing; over all queries.
        high: Upper end.
        mean: That difference itself.
        gain: The difference where each set of queries counts alike, however many it has.
        bytes_per_page: What a page takes in the index.
        milliseconds: Median time of a query.
        within: Whether that is inside the budgets.
        rerank: Whether the run's reranker orders the first pages anew.
        head: Whether late interaction has the head that the run trained.
    """

    name: str
    reads: str
    trained: bool
    weights: dict[str, float]
    value: float
    titles: float
    questions: float | None
    low: float
    high: float
    mean: float
    gain: float
    bytes_per_page: int
    milliseconds: float
    within: bool
    rerank: bool = False
    head: bool = False

    @property
    def source(self) -> Source:
        """The model behind its dense stages."""
        return Source(reads=self.reads, trained=self.trained, head=self.head)

    def plain(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def scored(retriever: Retriever, test: TestSet) -> Scored:
    """Scores by every stage of a retriever whose rows are those of the corpus."""
    allowed = np.zeros(retriever.segments.size, dtype=bool)
    allowed[list(test.rows)] = True
    return propose(retriever.stages, retriever.indexes, test.queries, 10, allowed)


def fused_search(scores: Scored, weights: Mapping[str, float], test: TestSet) -> Search:
    """Rank pages by stages' scores under some weights; pages that no stage proposed are not found."""
    place = np.full(max(test.rows) + 1, -1)
    place[list(test.rows)] = np.arange(len(test.rows))
    fusion = Fusion(weights=weights)
    plain = next(iter(weights)) if len(weights) == 1 else None
    table = np.full((len(scores), len(test.rows)), -np.inf, dtype=np.float32)
    for number, (rows, by_stage) in enumerate(scores):
        if len(rows):
            table[number, place[rows]] = fusion(by_stage) if plain is None else by_stage[plain]
    if plain in (LEXICAL, "sparse"):
        table[table == 0] = -np.inf  # a page that shares no word with the query is not found

    def search(block: slice) -> Hits:
        ranked = torch.from_numpy(table[block]).sort(dim=1, descending=True, stable=True)
        return Hits(ranked.values, ranked.indices)

    return search


def found_search(retriever: Retriever, test: TestSet) -> Search:
    """Rank the documents of a test as a retriever finds them, reranker included; pages behind `DEPTH` are not found."""
    entries = [retriever.segments.entry(row) for row in test.rows]
    column = {entry["id"]: place for place, entry in enumerate(entries)}
    where = {"document": sorted({entry["document"] for entry in entries})}
    depth = min(DEPTH, len(test.rows))

    def search(block: slice) -> Hits:
        queries = list(test.queries[block])
        rows = np.zeros((len(queries), depth), dtype=np.int64)
        scores = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        for query, hits in enumerate(retriever.search(queries, depth, where)):
            kept = [column[hit.id] for hit in hits if hit.id in column]
            rows[query, : len(kept)], scores[query, : len(kept)] = kept, -np.arange(len(kept))
        return Hits(torch.from_numpy(scores), torch.from_numpy(rows))

    return search


def measure(scores: Scored, weights: Mapping[str, float], test: TestSet) -> QueryMetrics:
    """Metrics of every query under some weights."""
    return score_search(fused_search(scores, weights, test), test)


def stand(
    candidate: Candidate,
    scores: Mapping[str, Scored],
    tests: Mapping[str, TestSet],
    baseline: Mapping[str, NDArray[np.float64]],
    evaluation: Evaluation,
    costs: tuple[int, float],
    settings: Retrieving,
) -> Standing:
    """Choose a candidate's weights on validation and see how it stands.

    Args:
        candidate: What is measured.
        scores: Stages' scores by set of queries ("titles", "questions").
        tests: The sets.
        baseline: NDCG@10 of what it has to beat, query by query.
        evaluation: How intervals are made.
        costs: Bytes a page and milliseconds a query.
        settings: The budgets.
    """
    grids = [_Grid(scores[name], candidate.stages, test) for name, test in tests.items()]
    best, weights = -1.0, candidate.stages
    for some in candidate.weights():
        value = float(np.mean([grid.mean_ndcg(some) for grid in grids]))
        if value > best + 1e-6:
            best, weights = value, some
    found = {name: measure(scores[name], weights, test).metrics[METRIC] for name, test in tests.items()}
    return judged(candidate.name, candidate.source, weights, found, tests, baseline, evaluation, costs, settings)


class _Grid:
    """NDCG@10 under many weights: what they weigh is computed once, as tables `(queries, pages)` of every stage."""

    def __init__(self, scores: Scored, stages: Mapping[str, float], test: TestSet) -> None:
        place = np.full(max(test.rows) + 1, -1)
        place[list(test.rows)] = np.arange(len(test.rows))
        shape = len(scores), len(test.rows)
        self.tables = {kind: np.zeros(shape, dtype=np.float32) for kind in stages}
        self.absent = np.ones(shape, dtype=bool)
        fusion = Fusion(weights=stages)
        for number, (rows, by_stage) in enumerate(scores):
            columns = place[rows]
            self.absent[number, columns] = False
            for kind, part in fusion.parts(by_stage).items():
                self.tables[kind][number, columns] = part
        self.right = np.zeros(shape, dtype=np.float32)
        for number, pages in enumerate(test.relevant):
            self.right[number, place[list(pages)]] = 1.0
        self.discounts = 1 / np.log2(np.arange(2, 12))
        counts = np.minimum(self.right.sum(axis=1).astype(int), 10)
        self.ideal = np.concatenate([[0.0], np.cumsum(self.discounts)])[counts]

    def mean_ndcg(self, weights: Mapping[str, float]) -> float:
        """The mean over queries."""
        total = sum(np.float32(weight) * self.tables[kind] for kind, weight in weights.items())
        total = np.where(self.absent, -np.inf, total)
        top = torch.from_numpy(total).topk(min(10, total.shape[1]), dim=1)
        gains = np.take_along_axis(self.right, top.indices.numpy(), axis=1) * np.isfinite(top.values.numpy())
        return float(((gains @ self.discounts[: gains.shape[1]]) / self.ideal).mean())


def judged(
    name: str,
    source: Source,
    weights: dict[str, float],
    found: Mapping[str, NDArray[np.float64]],
    tests: Mapping[str, TestSet],
    baseline: Mapping[str, NDArray[np.float64]],
    evaluation: Evaluation,
    costs: tuple[int, float],
    settings: Retrieving,
    *,
    rerank: bool = False,
) -> Standing:
    """Judge a retriever that found this: NDCG@10 by set of queries, query by query; all else as in `stand`."""
    contrast = paired_bootstrap(
        np.concatenate([baseline[name] for name in tests]),
        np.concatenate([found[name] for name in tests]),
        clusters=[cluster for test in tests.values() for cluster in test.clusters],
        resamples=evaluation.resamples,
        confidence=evaluation.confidence,
        seed=evaluation.seed,
    )
    value = float(np.mean([values.mean() for values in found.values()]))
    size, speed = costs
    return Standing(
        name=name,
        reads=source.reads,
        trained=source.trained,
        head=source.head,
        rerank=rerank,
        weights=weights,
        value=value,
        titles=float(found["titles"].mean()) if "titles" in found else value,
        questions=float(found["questions"].mean()) if "questions" in found else None,
        low=contrast.low,
        high=contrast.high,
        mean=contrast.difference,
        gain=float(np.mean([found[name].mean() - baseline[name].mean() for name in tests])),
        bytes_per_page=size,
        milliseconds=speed,
        within=size <= settings.bytes_per_page and speed <= settings.milliseconds,
    )


def deciding(tests: Mapping[str, TestSet | None]) -> dict[str, TestSet]:
    """The sets of queries that decide: all with enough queries, or else the titles."""
    there = {name: test for name, test in tests.items() if test is not None and test.queries}
    enough = {name: test for name, test in there.items() if name == "titles" or len(test.queries) >= _FEWEST}
    return enough or there


def choose_standing(standings: Sequence[Standing], *, pinned: bool = False) -> tuple[Standing, str]:
    """Choose the best candidate within the budgets; lexical search where none beats it measurably.

    Returns:
        The chosen one and why, in one sentence.
    """
    if pinned:
        return standings[0], "The recipe names its stages."
    allowed = [one for one in standings if one.within]
    lexical = next((one for one in standings if one.name == LEXICAL), None)
    if lexical is None:
        best = max(allowed or standings, key=lambda one: one.value)
        return best, "The pages have no text, so there is nothing to compare it with."
    better = [one for one in allowed if one.name != LEXICAL and one.low > 0 and one.gain > 0]
    if not better:
        return lexical, "Nothing beat lexical search measurably on validation."
    best = max(better, key=lambda one: one.value)
    return best, f"It was the best on validation ({best.value:.3f} against {lexical.value:.3f} of lexical search)."


def replacing(best: Standing, why: str, trained: Sequence[Standing]) -> tuple[Standing, str]:
    """The trained candidate that is measurably better than the best untrained one within the budgets, or that one."""
    # Titles are many and questions few: what gains on titles alone and loses on questions is not better.
    better = [one for one in trained if one.within and one.low > 0 and one.gain > 0]
    if not better:
        return best, why
    first = max(better, key=lambda one: one.value)
    return first, (
        f"On documents that its training did not see it was measurably better than {best.name}, the best of "
        f"what was trained on nothing ({first.low:+.3f} to {first.high:+.3f})."
    )
