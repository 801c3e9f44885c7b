"""Results of the run's retriever beside what is simpler, and the sentence that they amount to."""

import dataclasses
from collections.abc import Sequence

from omnitune.report.parts import Contrast, Interval, Page, Words

FEW = 30
"""Test queries below which a difference that is not found says nothing."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One retriever on one set of test queries.

    Attributes:
        ndcg: NDCG@10 over the held-out documents.
        difference: To lexical search, paired by query; None for lexical search itself, and where there is none.
        p_value: Of the difference, two-sided.
        all_pages: NDCG@10 over all pages.
    """

    ndcg: Interval
    difference: Interval | None
    p_value: float | None
    all_pages: Interval


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One retriever of the ladder.

    Attributes:
        name: As shown.
        weights: Of its stages, "" for a single one.
        chosen: Whether it is the run's retriever.
        titles: On titles.
        questions: On questions that people brought; None without them.
        bytes_per_page: What a page takes in the index.
        milliseconds: Median time of a query; None where it was not measured.
        validation: NDCG@10 on the validation queries; None for what did not stand for election.
    """

    name: str
    weights: str
    chosen: bool
    titles: Asked
    questions: Asked | None
    bytes_per_page: int
    milliseconds: float | None
    validation: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trained candidate beside the best untrained one, on documents that its training did not see.

    Attributes:
        name: As shown.
        value: NDCG@10, the mean of titles and questions.
        difference: To the untrained one, over all queries.
    """

    name: str
    value: float
    difference: Interval


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A test query whose right page the chosen retriever did not put first.

    Attributes:
        query: Its text.
        expected: The right page that it ranks best.
        rank: Rank of that page.
        lexical_rank: Rank of the best right page by lexical search; None where there is none.
        first: The page that took its place.
        why: What the two pages have of the query's words, in one sentence.
    """

    query: str
    expected: Page
    rank: int
    lexical_rank: int | None
    first: Page
    why: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """From lexical search to the chosen retriever, on the same test queries.

    Attributes:
        rungs: From the cheapest to the dearest.
        headline: Lexical search against the chosen retriever on titles; None where the pages have no text.
        name: Of the chosen retriever.
        why: Why it was chosen, in one sentence.
        queries: Test queries of titles.
        questions: Test questions.
        validation: What decided, in words: "200 titles of training documents".
        asked: The same as `headline` on questions; None without them.
        dense: The chosen retriever against the best of dense search alone, on titles and on questions.
        scans: Chosen retriever and lexical search on held-out pages, their text layers against recognised images.
        trained: Trained candidates on documents that their training did not see.
        failures: Queries that the chosen retriever answers worst, worst first.
        wall: Milliseconds of a query by the clock: half of them and 95% of them take no longer.
    """

    rungs: Sequence[Rung]
    headline: Contrast | None
    name: str
    why: str
    queries: int
    questions: int
    validation: str
    asked: Contrast | None = None
    dense: Sequence[Contrast] = ()
    scans: Sequence[Contrast] = ()
    trained: Sequence[Trial] = ()
    failures: Sequence[Failure] = ()
    wall: tuple[float, float] | None = None


def ladder_sentence(ladder: Ladder, metric: str, words: Words, tested: str) -> str:
    """Say whether the chosen retriever is worth deploying instead of lexical search, on titles and on questions.

    Args:
        ladder: The retrievers.
        metric: Its name.
        words: What documents and pages are called.
        tested: The held-out documents in words: "3 documents".
    """
    assert ladder.headline is not None, "the sentence compares with lexical search"
    if any(rung.chosen and rung.titles.difference is None for rung in ladder.rungs):
        return f"Lexical search is enough for these {words.document}s: {ladder.why}"
    parts = []
    for one, asked in ((ladder.headline, "titles"), (ladder.asked, "questions that people ask")):
        if one is not None:
            told = "not measurably different" if one.verdict == "no measurable difference" else one.verdict
            parts.append(
                f"{told} on {one.queries:,} {asked} ({metric} {one.finetuned.value:.3f} against "
                f"{one.base.value:.3f}, {one.difference.low:+.3f} to {one.difference.high:+.3f})"
            )
    verdicts = {one.verdict for one in (ladder.headline, ladder.asked) if one is not None}
    advice = f"deploy {ladder.name}"
    queries = sum(one.queries for one in (ladder.headline, ladder.asked) if one is not None)
    if verdicts <= {"no measurable difference"} and queries < FEW:
        advice = f"{queries} queries are too few to tell, so hold out more documents or bring questions"
    elif verdicts <= {"no measurable difference"}:
        advice = (
            f"{ladder.name}, which validation chose, was not shown to be worth its cost: lexical search may be enough"
        )
    elif "worse" in verdicts:
        advice = "look at the queries below before deploying it"
    return (
        f"Against lexical search, on {tested} that no choice and no training saw, the chosen retriever is "
        f"{' and '.join(parts)}: {advice}."
    )
