"""Results of a finetuning run as plain data: the report shows them and `report.json` holds them.

Nothing here computes: numbers and images come in ready. Images are left out of the JSON.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Verdict = Literal["better", "worse", "no measurable difference"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Words for the parts of a collection, in the singular; an s makes them several.

    Attributes:
        document: A file of it.
        page: What is found.
        sees: What a model is given of that.
        text: What a text retriever is given of it.
    """

    document: str = "document"
    page: str = "page"
    sees: str = "page image"
    text: str = "text layer"


PAGE_WORDS = Words()


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """A number and the ends of its confidence interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """The base model against the finetuned one on the same queries.

    Attributes:
        label: What was searched or varied: `"held-out documents"`, `"all pages"`, `"256 dimensions"`.
        base: Score of the base model.
        finetuned: Score of the finetuned model.
        difference: Finetuned minus base, paired by query.
        p_value: Two-sided.
        queries: Number of queries.
        pages: Number of pages that were searched.
        dim: Embedding dimension.
    """

    label: str
    base: Interval
    finetuned: Interval
    difference: Interval
    p_value: float
    queries: int
    pages: int
    dim: int

    @property
    def verdict(self) -> Verdict:
        """Claim that the numbers allow: none while the interval of the difference covers zero."""
        if self.difference.low > 0:
            return "better"
        return "worse" if self.difference.high < 0 else "no measurable difference"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One retriever on the test.

    Attributes:
        name: As shown.
        reads: What it sees of a page: `"page image"`, `"text layer"`.
        ndcg: NDCG@10 over the held-out documents.
        all_pages: NDCG@10 over all pages; None where it was not measured.
        metrics: Further metrics over the held-out documents, by name.
    """

    name: str
    reads: str
    ndcg: Interval
    all_pages: Interval | None
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SizePoint:
    """Quality at one stored size: embedding dimension, number format, bytes per page, NDCG@10 of both models."""

    dim: int
    precision: str
    bytes_per_page: int
    base: float
    finetuned: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to store the pages' vectors of the finetuned model, measured on all pages.

    Attributes:
        dim: Dimensions kept.
        precision: Number format.
        index: "exact", or "HNSW" for a graph.
        ndcg: NDCG@10 of the held-out queries, with its interval.
        bytes_per_page: Room of a page in memory, the index's included.
        p50_ms: Median milliseconds of one query.
        p95_ms: Milliseconds that 95% of the queries stay within.
    """

    dim: int
    precision: str
    index: str
    ndcg: Interval
    bytes_per_page: int
    p50_ms: float
    p95_ms: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LossPoint:
    """One logged loss: optimizer step, epoch, mean loss since the previous point."""

    step: int
    epoch: float
    loss: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page as the report shows it.

    Attributes:
        id: Key in the corpus.
        document: File name.
        number: Page number in the document, from 1.
        image: JPEG bytes of a thumbnail; empty in the JSON.
        times: Where a segment of a recording or clip lies in it ("0:30-0:45"); "" for a page.
        read: The beginning of what was read in a segment: a picture does not show it.
    """

    id: str
    document: str
    number: int
    image: bytes = dataclasses.field(default=b"", repr=False)
    times: str = ""
    read: str = ""

    @property
    def place(self) -> str:
        """Place of the page, as people say it."""
        return f"{self.document}, {self.times or f'page {self.number}'}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test query and what both models made of it.

    Attributes:
        query: Its text.
        expected: A relevant page: the one that the finetuned model ranks best.
        base_rank: Rank of the best relevant page, from 1.
        finetuned_rank: As `base_rank`.
        base_score: NDCG@10.
        finetuned_score: NDCG@10.
        base_first: What the base model ranked first.
        finetuned_first: What the finetuned model ranked first.
    """

    query: str
    expected: Page
    base_rank: int
    finetuned_rank: int
    base_score: float
    finetuned_score: float
    base_first: Page
    finetuned_first: Page


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document of the dataset: file name, split, pages kept, queries written from it."""

    name: str
    split: str
    pages: int
    queries: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Something that was left out, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Data of training and test.

    Attributes:
        source: The folder or dataset it came from.
        documents: Every document that was used.
        train_pairs: Training pairs of query and page.
        test_queries: Held-out queries.
        test_pages: Pages of the held-out documents.
        all_pages: All pages.
        skipped: Documents that were skipped.
        duplicates: Near-duplicate pages that were dropped.
        bad_items: Pages that could not be read in training.
        notes: Facts worth a sentence each.
    """

    source: str
    documents: Sequence[Document]
    train_pairs: int
    test_queries: int
    test_pages: int
    all_pages: int
    skipped: Sequence[Skipped] = ()
    duplicates: Sequence[Skipped] = ()
    bad_items: Sequence[Skipped] = ()
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Negative:
    """A training query, its page, and a hard negative of it, with the base model's scores of both pages."""

    query: str
    expected: Page
    negative: Page
    score: float
    negative_score: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mining:
    """Hard negatives that were trained on.

    Attributes:
        count: Negatives of each pair.
        pairs: Training pairs that have them.
        without: Training pairs left out, because too few pages were allowed.
        refused: Candidates that each rule refused, by the rule in words.
        examples: Kept negatives worth looking at.
    """

    count: int
    pairs: int
    without: int
    refused: Mapping[str, int]
    examples: Sequence[Negative]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Commands and settings that give these numbers again.

    Attributes:
        command: The exact command.
        model: What was finetuned.
        why: Why this model.
        recipe: Where the settings come from.
        settings: All settings, by section.
        facts: Further facts by name: loss, negatives a query, trained parameters.
        versions: Of packages.
        hardware: Of the machine.
        seconds: Duration of every step.
    """

    command: str
    model: str
    why: str
    recipe: str
    settings: Mapping[str, Any]
    facts: Mapping[str, str]
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    seconds: Mapping[str, float]


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
    """A trained candidate beside the best untrained one, on validation documents that its training did not see.

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
        trained: Trained candidates on validation documents.
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the report shows.

    Attributes:
        title: Heading.
        created: Date and time, ISO 8601.
        metric: Name of the headline metric.
        confidence: Level of all intervals.
        headline: Both models on the pages of held-out documents.
        all_pages: The same queries against all pages.
        dimensions: Both models on the held-out documents, one for each embedding dimension, largest first.
        systems: Both models and the baselines.
        sizes: Quality against stored size.
        losses: Loss curve.
        improved: Most improved queries, best first.
        worst: Queries that lost most or stayed worst, worst first.
        data: What it was trained and tested on.
        run: How to get it again.
        mining: Hard negatives, where they were mined.
        further: Steps after finetuning; each has the finetuned model as its base.
        clusters: Units that the bootstrap resampled, in words.
        words: What documents and pages are called.
        ladder: The run's retriever beside what is simpler; None where none was made.
        choices: Ways to store the pages' vectors, measured.
        votes: Both models on questions that people voted on and that were held out; None without any.
    """

    title: str
    created: str
    metric: str
    confidence: float
    headline: Contrast
    all_pages: Contrast
    dimensions: Sequence[Contrast]
    systems: Sequence[System]
    sizes: Sequence[SizePoint]
    losses: Sequence[LossPoint]
    improved: Sequence[Case]
    worst: Sequence[Case]
    data: Data
    run: Run
    mining: Mining | None = None
    further: Sequence[Contrast] = ()
    clusters: str = "queries"
    words: Words = PAGE_WORDS
    ladder: Ladder | None = None
    choices: Sequence[Choice] = ()
    votes: Contrast | None = None

    @property
    def main(self) -> Contrast:
        """Comparison claimed first: lexical search against the chosen retriever, else base against finetuned."""
        ladder = None if self.ladder is None else self.ladder.headline
        return ladder or self.headline

    @property
    def sentence(self) -> str:
        """The sentence that somebody who decides needs: whether it is worth deploying."""
        return _finetuning_sentence(self) if self.main is self.headline else _ladder_sentence(self)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`, images left out, the verdicts and the sentence put in."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        plain["verdict"], plain["sentence"] = self.main.verdict, self.sentence
        plain["finetuning_verdict"] = self.headline.verdict
        return plain


def _finetuning_sentence(report: Report) -> str:
    contrast, words = report.headline, report.words
    found = (
        f"{report.metric} {contrast.base.value:.3f} to {contrast.finetuned.value:.3f} on {contrast.queries:,} queries"
    )
    if contrast.verdict == "no measurable difference":
        return f"{found}: the interval of the difference covers zero, so this run does not show that finetuning helped."
    seen = f"on {words.document}s it never saw in training"
    return f"{found}: the finetuned model finds the right {words.page} {contrast.verdict}, {seen}."


def _ladder_sentence(report: Report) -> str:
    """Say whether the chosen retriever is worth deploying instead of lexical search, on titles and on questions."""
    ladder, words = report.ladder, report.words
    assert ladder is not None and ladder.headline is not None
    if ladder.headline.difference.low == ladder.headline.difference.high == 0:
        return f"Lexical search is enough for these {words.document}s: {ladder.why}"
    parts = []
    for one, asked in ((ladder.headline, "titles"), (ladder.asked, "questions that people ask")):
        if one is not None:
            parts.append(
                f"{one.verdict} on {one.queries:,} {asked} ({report.metric} {one.finetuned.value:.3f} against "
                f"{one.base.value:.3f}, {one.difference.low:+.3f} to {one.difference.high:+.3f})"
            )
    verdicts = {one.verdict for one in (ladder.headline, ladder.asked) if one is not None}
    advice = f"deploy {ladder.name}"
    if verdicts <= {"no measurable difference"}:
        advice = f"lexical search is enough, since {ladder.name} was not shown to be worth its cost"
    elif "worse" in verdicts:
        advice = "look at the queries below before deploying it"
    return (
        f"Against lexical search, on {words.document}s that no choice and no training saw, the chosen retriever is "
        f"{' and '.join(parts)}: {advice}."
    )


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = (f.name for f in dataclasses.fields(value))
        return {name: _plain(getattr(value, name)) for name in fields if not isinstance(getattr(value, name), bytes)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
