"""A finished run as a `Report`: what was measured, on what, how, and the queries worth looking at."""

import datetime
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from omnitune.documents.dataset import DocumentDataset
from omnitune.finetune import findings
from omnitune.finetune.baselines import has_text
from omnitune.finetune.choose import Choice
from omnitune.finetune.encoded import load_test
from omnitune.finetune.findings import Embedded, Measured
from omnitune.finetune.fit import Fitted, measured_dims
from omnitune.finetune.measure import Resampling, Test, cosine_scorer, judge, reranked_scorer
from omnitune.finetune.negatives import FILE as NEGATIVES
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.io import read_jsonl
from omnitune.report.results import Case, Contrast, Data, Document, Left, Mining, Negative, Page, Report, Run

NEGATIVES_SHOWN = 20
READ_SHOWN = 160
"""Characters of what was read in a segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a run left for its report.

    Attributes:
        dataset: Pages, queries, splits.
        chosen: Model and settings.
        fitted: What training left.
        embeddings: Folder of the run's embeddings; one of another run may lie in it too.
        encoded: Models that this run encoded the test with: `base`, `finetuned`, and `text` or `distilled` where
            there is one.
        command: How the run was started.
        seconds: Duration of every step.
        mined: What the mining of hard negatives told, where there was one.
        reranked: Name of the reranker, where the test was reranked.
        distilled: Whether the retriever was trained on its scores.
        notes: Facts worth a sentence.
    """

    dataset: DocumentDataset
    chosen: Choice
    fitted: Fitted
    embeddings: Path
    encoded: Sequence[str]
    command: str
    seconds: Mapping[str, float]
    reranked: str = ""
    distilled: bool = False
    mined: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()


def tell(story: Story) -> Report:
    """Measure everything and put it into a report."""
    dataset, settings = story.dataset, story.chosen.recipe.evaluation
    test, everything = tests_of(dataset)
    resampling = Resampling(resamples=settings.resamples, confidence=settings.confidence, seed=settings.seed)
    embedded = {name: load_test(story.embeddings / name) for name in story.encoded}
    words = dataset.kind.words
    base = findings.measure_embedded("base", words.sees, embedded["base"], test, everything)
    tuned = findings.measure_embedded("finetuned", words.sees, embedded["finetuned"], test, everything)
    assert base.all_pages is not None and tuned.all_pages is not None
    more, further = _further(story, embedded, tuned, test, everything, resampling)
    dims = measured_dims(embedded["base"][1].shape[1], story.chosen.recipe)
    dimensions = findings.by_dimension(embedded["base"], embedded["finetuned"], test, dims, resampling)
    return Report(
        title=f"Finding {words.page}s in {dataset.name}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        metric=findings.METRIC_SHOWN,
        confidence=settings.confidence,
        headline=dimensions[0],
        all_pages=resampling.contrast(
            base.all_pages,
            tuned.all_pages,
            everything,
            label=f"all {words.page}s",
            dim=dims[0],
            metric=findings.METRIC,
        ),
        dimensions=dimensions,
        systems=findings.systems(
            [tuned, base, *more, *_baselines(story, embedded, test, everything)], test, everything, resampling
        ),
        sizes=findings.by_size(embedded["base"], embedded["finetuned"], test, dims, settings.precisions),
        losses=story.fitted.losses,
        **_cases(story, base, tuned, test),
        data=_data(story, test, everything),
        run=_run(story),
        mining=_mining(story),
        further=further,
        clusters=f"{words.page}s",
        words=words,
    )


def tests_of(dataset: DocumentDataset) -> tuple[Test, Test]:
    """The test queries against the pages of held-out documents, and against all pages.

    A page of a training document that answers a query as well counts where all pages are searched.
    """
    row = {page: number for number, page in enumerate(dataset.page_ids)}
    held_out = [row[page] for page in dataset.pages_of("test")]
    answers = [sorted(row[page] for page in dataset.relevant[query]) for query in dataset.queries]
    among = set(held_out)
    near = [[page for page in pages if page in among] for pages in answers]
    queries = list(dataset.queries.values())
    clusters = [pages[0] for pages in near]
    return (
        Test(queries=queries, relevant=near, rows=held_out, clusters=clusters),
        Test(queries=queries, relevant=answers, rows=list(range(len(row))), clusters=clusters),
    )


def page_shower(dataset: DocumentDataset) -> Callable[[int], Page]:
    """A function that makes a page of the report from its row in the corpus; every image is read once."""
    table = dataset.tables["pages"]

    @cache
    def show(row: int) -> Page:
        known = table[row]
        image = load(dataset.pictures[row], "image", DEFAULT_POLICY)
        return Page(
            id=known["page_id"],
            document=known["document"],
            number=known["number"],
            image=findings.thumbnail(image),
            times=known["label"] if dataset.kind.ways else "",
            read="" if dataset.kind.own_text else textwrap.shorten(known["text"], READ_SHOWN, placeholder=" …"),
        )

    return show


def _baselines(story: Story, embedded: Mapping[str, Embedded], test: Test, everything: Test) -> list[Measured]:
    wanted, dataset = story.chosen.recipe.evaluation.baselines, story.dataset
    reads = dataset.kind.words.text
    found = []
    if "bm25" in wanted and has_text(dataset.page_texts):
        found.append(findings.measure_bm25(dataset.page_texts, reads, test, everything))
    if "text" in wanted and "text" in embedded:
        found.append(findings.measure_embedded("MiniLM", reads, embedded["text"], test, everything))
    return found


def _cases(story: Story, base: Measured, tuned: Measured, test: Test) -> dict[str, list[Case]]:
    count = story.chosen.recipe.evaluation.cases
    show = page_shower(story.dataset)
    before, after = base.held_out, tuned.held_out
    return {
        "improved": findings.cases(findings.improved(before, after, count), before, after, test, show),
        "worst": findings.cases(findings.worst(before, after, count), before, after, test, show),
    }


def _further(
    story: Story,
    embedded: Mapping[str, Embedded],
    tuned: Measured,
    test: Test,
    everything: Test,
    resampling: Resampling,
) -> tuple[list[Measured], list[Contrast]]:
    """What came after finetuning, each against the finetuned retriever."""
    found = []
    words = story.dataset.kind.words
    dim = embedded["finetuned"][1].shape[1]
    if story.reranked:
        kept = np.load(story.embeddings.parent / "rerank.npz")
        queries, pages = embedded["finetuned"]
        first = cosine_scorer(queries, pages[list(test.rows)])
        depth = kept["candidates"].shape[1]
        judged = judge(reranked_scorer(first, kept["candidates"], kept["scores"]), test)
        name = f"finetuned, first {depth} reranked"
        found.append((Measured(name=name, reads=words.sees, held_out=judged, all_pages=None),
                      f"the first {depth} {words.page}s reranked by {story.reranked}"))  # fmt: skip
    if story.distilled:
        measured = findings.measure_embedded("distilled", words.sees, embedded["distilled"], test, everything)
        found.append((measured, "the reranker distilled into the retriever"))
    contrasts = [
        resampling.contrast(tuned.held_out, one.held_out, test, label=label, dim=dim, metric=findings.METRIC)
        for one, label in found
    ]
    return [one for one, _ in found], contrasts


def _mining(story: Story) -> Mining | None:
    """With the negatives that the base model likes best, one a query: where they answer it, the rules are too lax."""
    if story.mined is None:
        return None
    row = {page: number for number, page in enumerate(story.dataset.page_ids)}
    show = page_shower(story.dataset)
    rows = sorted(read_jsonl(story.embeddings.parent / NEGATIVES), key=lambda one: one["scores"][0])
    by_query = {one["query"]: one for one in rows}
    hardest = sorted(by_query.values(), key=lambda one: -one["scores"][0])[:NEGATIVES_SHOWN]
    return Mining(
        count=story.chosen.recipe.negatives.count,
        pairs=story.mined["queries"],
        without=story.mined["without"],
        refused=story.mined["refused"],
        examples=[
            Negative(
                query=one["query"],
                expected=show(row[one["page_id"]]),
                negative=show(row[one["negatives"][0]]),
                score=one["score"],
                negative_score=one["scores"][0],
            )
            for one in hardest
        ],
    )


def _data(story: Story, test: Test, everything: Test) -> Data:
    dataset = story.dataset
    facts = dataset.facts
    words = dataset.kind.words
    noun = words.document
    held_out = [one["name"] for one in facts["documents"] if "test" in one["side"]]
    notes = [
        f"Test queries are {dataset.kind.written} of {_listed(held_out, noun)}, as their authors wrote them.",
        f"Intervals and p-values are about queries to {_these(held_out, noun)}; another collection is another "
        "question.",
        *(f"{count:,} queries dropped: {reason}." for reason, count in facts["dropped"].items() if count),
        *story.notes,
    ]
    left_out = [
        Left(name=page, reason=f"nearly the held-out {words.page} {kept}") for page, kept in facts["left_out"].items()
    ]
    return Data(
        source=facts["source"],
        documents=[
            Document(name=one["name"], split=one["side"], pages=one["pages"], queries=one["queries"])
            for one in facts["documents"]
        ],
        train_pairs=len(dataset.train),
        test_queries=len(test.queries),
        test_pages=len(test.rows),
        all_pages=len(everything.rows),
        skipped=[Left(name=one["name"], reason=one["reason"]) for one in facts["skipped"]],
        duplicates=left_out,
        bad_items=story.fitted.bad_items,
        notes=notes,
    )


def _listed(names: Sequence[str], noun: str) -> str:
    if len(names) > 4:
        return f"{len(names)} held-out {noun}s"
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]


def _these(names: Sequence[str], noun: str) -> str:
    return f"this {noun}" if len(names) == 1 else f"these {len(names)} {noun}s"


def _run(story: Story) -> Run:
    recipe = story.chosen.recipe
    return Run(
        command=story.command,
        model=story.chosen.shown,
        why=story.chosen.why,
        recipe=Path(recipe.source).name,
        settings=recipe.settings(),
        facts=story.fitted.facts,
        versions=findings.versions(),
        hardware=findings.hardware(),
        seconds=story.seconds,
    )
