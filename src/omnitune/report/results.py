"""Results of a finetuning run as plain data: the report shows them and `report.json` holds them.

Nothing here computes: numbers and images come in ready. Images are left out of the JSON.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from omnitune.report.ladder import Ladder, ladder_sentence
from omnitune.report.parts import PAGE_WORDS, Contrast, Interval, Page, Words


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
        if self.ladder is None or self.main is self.headline:
            contrast, words = self.headline, self.words
            values = f"{contrast.base.value:.3f} to {contrast.finetuned.value:.3f}"
            found = f"{self.metric} {values} on {contrast.queries:,} queries"
            if contrast.verdict == "no measurable difference":
                unclear = (
                    "the interval of the difference covers zero, so this run does not show that finetuning helped."
                )
                return f"{found}: {unclear}"
            seen = f"on {words.document}s it never saw in training"
            return f"{found}: the finetuned model finds the right {words.page} {contrast.verdict}, {seen}."
        return ladder_sentence(self.ladder, self.metric, self.words, self.tested)

    @property
    def tested(self) -> str:
        """The held-out documents in words: "one document", "3 documents"."""
        count = sum("test" in one.split for one in self.data.documents)
        return f"one {self.words.document}" if count == 1 else f"{count} {self.words.document}s"

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`, images left out, the verdicts and the sentence put in."""
        plain = _plain(self)
        assert isinstance(plain, dict)
        plain["verdict"], plain["sentence"] = self.main.verdict, self.sentence
        plain["finetuning_verdict"] = self.headline.verdict
        return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = (f.name for f in dataclasses.fields(value))
        return {name: _plain(getattr(value, name)) for name in fields if not isinstance(getattr(value, name), bytes)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
