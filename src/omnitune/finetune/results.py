"""A finished run as a `Report`: measurements, data, settings, and the queries worth looking at."""

import datetime
import platform
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from omnitune import runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.finetune.choices import measure_choices
from omnitune.finetune.choose import ModelChoice
from omnitune.finetune.feedback import vote_contrast
from omnitune.finetune.measure import (
    METRIC,
    METRIC_SHOWN,
    OTHERS,
    Embedded,
    QueryMetrics,
    Search,
    TestSet,
    bm25_search,
    contrast,
    cosine_search,
    has_text,
    interval,
    load_test,
    measured_dims,
    reranked_search,
    score_search,
    stored_bytes,
    test_sets,
)
from omnitune.finetune.negatives import FILE as NEGATIVES
from omnitune.finetune.recipe import Evaluation
from omnitune.finetune.retriever import RetrieverSteps
from omnitune.finetune.rungs import describe_ladder
from omnitune.finetune.steps import Steps
from omnitune.inputs.load import load
from omnitune.inputs.policy import DEFAULT_POLICY
from omnitune.io import read_jsonl
from omnitune.ops.quantize import Precision
from omnitune.report.parts import Contrast, Page
from omnitune.report.results import (
    Case,
    Data,
    Document,
    LossPoint,
    Mining,
    Negative,
    Report,
    Run,
    SizePoint,
    Skipped,
    System,
)
from omnitune.retrieval.contact_sheet import thumbnail

NEGATIVES_SHOWN = 20
READ_SHOWN = 160
"""Characters of what was read in a segment."""
THUMBNAIL = 480
"""Width of a page image in the report, in pixels."""
NAMED = 8
"""Documents that one sentence names."""

PACKAGES = (
    "omnitune", "torch", "transformers", "datasets", "tokenizers", "numpy", "pypdfium2", "peft", "tesserocr", "av",
    "pocketsphinx",
)  # fmt: skip

ORIGINS = {
    "title": "outline titles",
    "caption": "captions",
    "heading": "headings",
    "sentence": "sentences of subtitles and transcripts",
    "model": "questions that a model wrote",
    "vote": "questions that people voted on",
}
"""Origin of a query, and what such queries are called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A retriever on the held-out documents and, unless it was not asked there, among all pages."""

    name: str
    reads: str
    held_out: QueryMetrics
    all_pages: QueryMetrics | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResults:
    """Everything that the report of a run is made from.

    Attributes:
        steps: Of the run, all of them done.
        chosen: Model and settings.
        dataset: Pages, queries, splits.
        command: How the run was started.
        ladder: The steps that made the retriever; None where none was made.
        votes: Questions of votes that were held out.
    """

    steps: Steps
    chosen: ModelChoice
    dataset: DocumentDataset
    command: str
    ladder: RetrieverSteps | None = None
    votes: TestSet | None = None

    def embeddings(self) -> dict[str, Embedded]:
        """Embeddings that this run made, by model; those of another run may lie in the folder too."""
        names = ["base", "finetuned"]
        names += ["text"] if self.steps.done["text baseline"].result["encoded"] else []
        names += ["distilled"] if "distill" in self.steps.done else []
        return {name: load_test(self.steps.folder / "embeddings" / name) for name in names}


def make_report(run: RunResults) -> Report:
    """Measure everything and put it into a report."""
    dataset, settings = run.dataset, run.chosen.recipe.evaluation
    words = dataset.kind.words
    sees = f"first window of the {words.text}" if dataset.as_text else words.sees
    test, everything = test_sets(dataset)
    embedded = run.embeddings()

    def dense(name: str, model: str, reads: str) -> Measured:
        held_out, all_pages = (score_search(cosine_search(embedded[model], s.rows), s) for s in (test, everything))
        return Measured(name=name, reads=reads, held_out=held_out, all_pages=all_pages)

    base, tuned = dense("base", "base", sees), dense("finetuned", "finetuned", sees)
    assert base.all_pages is not None and tuned.all_pages is not None
    measured = [tuned, base]
    if "bm25" in settings.baselines and has_text(dataset.page_texts):
        found = []
        for one in (test, everything):
            texts = [dataset.page_texts[row] for row in one.rows]
            found.append(score_search(bm25_search(one.queries, texts), one))
        measured.append(Measured(name="BM25", reads=words.text, held_out=found[0], all_pages=found[1]))
    if "text" in embedded:
        measured.append(dense("MiniLM", "text", words.text))

    dims = measured_dims(embedded["base"][1].shape[1], run.chosen.recipe)
    further = []
    if "reranker" in run.steps.done:
        shown = run.steps.done["reranker"].result
        kept = np.load(run.steps.folder / "rerank.npz", allow_pickle=False)
        depth = kept["candidates"].shape[1]
        search: Search = reranked_search(cosine_search(embedded["finetuned"], test.rows), kept["candidates"],
                                         kept["scores"])  # fmt: skip
        name = f"finetuned, first {depth} reranked"
        measured.append(Measured(name=name, reads=sees, held_out=score_search(search, test), all_pages=None))
        further.append((measured[-1], f"the first {depth} {words.page}s reranked by {shown}"))
    if "distilled" in embedded:
        measured.append(dense("distilled", "distilled", sees))
        further.append((measured[-1], "the reranker distilled into the retriever"))

    by_dim = by_dimension(embedded["base"], embedded["finetuned"], test, dims, settings)
    show = page_shower(dataset)
    before, after = base.held_out, tuned.held_out
    trained = run.steps.done["train"].result
    return Report(
        title=f"Finding {words.page}s in {dataset.name}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        metric=METRIC_SHOWN,
        confidence=settings.confidence,
        headline=by_dim[0],
        all_pages=contrast(
            base.all_pages, tuned.all_pages, everything, settings, label=f"all {words.page}s", dim=dims[0]
        ),
        dimensions=by_dim,
        systems=systems(measured, test, everything, settings),
        sizes=by_size(embedded["base"], embedded["finetuned"], test, dims, settings.precisions),
        choices=measure_choices(embedded["finetuned"], everything, dims, settings.precisions, settings),
        losses=[LossPoint(**point) for point in trained["losses"]],
        improved=cases(improved(before, after, settings.cases), before, after, test, show),
        worst=cases(worst(before, after, settings.cases), before, after, test, show),
        data=describe_data(run, test, everything),
        run=Run(
            command=run.command,
            model=run.chosen.shown,
            why=run.chosen.why,
            recipe=Path(run.chosen.recipe.source).name,
            settings=run.chosen.recipe.settings(),
            facts=trained["facts"],
            versions=versions(),
            hardware=hardware(),
            seconds={name: done.seconds for name, done in run.steps.done.items()},
        ),
        mining=describe_mining(run, show),
        further=[
            contrast(after, one.held_out, test, settings, label=label, dim=embedded["finetuned"][1].shape[1])
            for one, label in further
        ],
        clusters=f"{words.page}s",
        words=words,
        ladder=None if run.ladder is None else describe_ladder(run.ladder, show, settings.cases),
        votes=None if run.votes is None else vote_contrast(run.steps, run.votes, settings),
    )


def describe_data(run: RunResults, test: TestSet, everything: TestSet) -> Data:
    """Documents, splits and counts, and a sentence for everything that a reader would otherwise have to guess."""
    dataset, facts, words = run.dataset, run.dataset.facts, run.dataset.kind.words
    held_out = [one["name"] for one in facts["documents"] if "test" in one["side"]]
    mute = [one["name"] for one in facts["documents"] if not one["queries"]]
    asked = _joined([ORIGINS.get(origin, origin) for origin, count in facts["queries"]["test"].items() if count])
    those = f"this {words.document}" if len(held_out) == 1 else f"these {len(held_out)} {words.document}s"
    notes = [
        f"Test queries are {asked} of {_named(held_out, words.document)}, as their authors wrote them.",
        f"Intervals and p-values are about queries to {those}; another collection is another question.",
    ]
    notes += [f"{doubt}." for doubt in dataset.doubts()]
    if mute:
        reason = "captions" if dataset.kind.captioned else "outline titles, captions or headings"
        notes.append(
            f"No queries could be taken from {_named(mute, words.document)}, for want of {reason} with text: "
            f"the numbers say nothing about finding their {words.page}s."
        )
    if dataset.drawing:
        notes.append(f"{dataset.drawing[0].upper()}{dataset.drawing[1:]}.")
    notes += [f"{count:,} queries dropped: {reason}." for reason, count in facts["dropped"].items() if count]
    notes += [run.steps.done["text baseline"].result["note"]] if run.steps.done["text baseline"].result["note"] else []
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
        skipped=[Skipped(name=one["name"], reason=one["reason"]) for one in facts["skipped"]],
        duplicates=[
            Skipped(name=page, reason=f"nearly the held-out {words.page} {kept}")
            for page, kept in facts["left_out"].items()
        ],
        bad_items=[Skipped(**item) for item in run.steps.done["train"].result["bad_items"]],
        notes=notes,
    )


def describe_mining(run: RunResults, show: Callable[[int], Page]) -> Mining | None:
    """Hard-negative mining statistics, or None; with the negatives that score highest, one a query.

    Where those answer their query, the mining rules are too lax.
    """
    if "negatives" not in run.steps.done:
        return None
    found = run.steps.done["negatives"].result
    row = {page: number for number, page in enumerate(run.dataset.page_ids)}
    rows = sorted(read_jsonl(run.steps.folder / NEGATIVES), key=lambda one: one["scores"][0])
    by_query = {one["query"]: one for one in rows}
    hardest = sorted(by_query.values(), key=lambda one: -one["scores"][0])[:NEGATIVES_SHOWN]
    return Mining(
        count=run.chosen.recipe.negatives.count,
        pairs=found["queries"],
        without=found["without"],
        refused=found["refused"],
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


def page_shower(dataset: DocumentDataset) -> Callable[[int], Page]:
    """Make a function from a row of the corpus to a page of the report, which reads every image once."""
    table = dataset.tables["pages"]

    @cache
    def show(row: int) -> Page:
        known = table[row]
        image = load(dataset.pictures[row], "image", DEFAULT_POLICY)
        return Page(
            id=known["page_id"],
            document=known["document"],
            number=known["number"],
            image=thumbnail(image, THUMBNAIL),
            times=known["label"] if dataset.kind.segmentations else "",
            read="" if dataset.kind.own_text else textwrap.shorten(known["text"], READ_SHOWN, placeholder=" …"),
        )

    return show


def _named(names: Sequence[str], noun: str) -> str:
    if len(names) <= 4:
        return _joined(names)
    return f"{len(names)} {noun}s ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})"


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)


def systems(measured: Sequence[Measured], test: TestSet, everything: TestSet, settings: Evaluation) -> list[System]:
    """Rows of the table of retrievers, best first."""
    rows = [
        System(
            name=one.name,
            reads=one.reads,
            ndcg=interval(one.held_out.metrics[METRIC], test, settings),
            all_pages=interval(one.all_pages.metrics[METRIC], everything, settings) if one.all_pages else None,
            metrics={shown: one.held_out.mean(metric) for metric, shown in OTHERS.items()},
        )
        for one in measured
    ]
    return sorted(rows, key=lambda row: -row.ndcg.value)


def by_dimension(
    base: Embedded, finetuned: Embedded, test: TestSet, dims: Sequence[int], settings: Evaluation
) -> list[Contrast]:
    """Both models at every dimension, over the held-out documents."""
    found = []
    for dim in dims:
        before, after = (score_search(cosine_search(one, test.rows, dim=dim), test) for one in (base, finetuned))
        found.append(contrast(before, after, test, settings, label=f"{dim} dimensions", dim=dim))
    return found


def by_size(
    base: Embedded, finetuned: Embedded, test: TestSet, dims: Sequence[int], precisions: Sequence[Precision]
) -> list[SizePoint]:
    """Both models at every dimension and number format."""

    def score(embedded: Embedded, dim: int, precision: Precision) -> float:
        return score_search(cosine_search(embedded, test.rows, dim=dim, precision=precision), test).mean(METRIC)

    return [
        SizePoint(
            dim=dim,
            precision=precision,
            bytes_per_page=stored_bytes(dim, precision),
            base=score(base, dim, precision),
            finetuned=score(finetuned, dim, precision),
        )
        for precision in precisions
        for dim in dims
    ]


def improved(base: QueryMetrics, finetuned: QueryMetrics, count: int) -> list[int]:
    """Queries that gained most, best first."""
    gain = finetuned.metrics[METRIC] - base.metrics[METRIC]
    order = np.lexsort((finetuned.rank - base.rank, -gain))
    return [int(query) for query in order if gain[query] > 0][:count]


def worst(base: QueryMetrics, finetuned: QueryMetrics, count: int) -> list[int]:
    """Queries that the finetuned model answers worst, those that lost most first among equals."""
    gain = finetuned.metrics[METRIC] - base.metrics[METRIC]
    order = np.lexsort((-finetuned.rank, gain, finetuned.metrics[METRIC]))
    return [int(query) for query in order if finetuned.rank[query] > 1][:count]


def cases(
    chosen: Sequence[int], base: QueryMetrics, finetuned: QueryMetrics, test: TestSet, page: Callable[[int], Page]
) -> list[Case]:
    """Cases of the report for some queries; `page` makes a page of the report from its row."""
    return [
        Case(
            query=test.queries[query],
            expected=page(int(finetuned.best[query])),
            base_rank=int(base.rank[query]),
            finetuned_rank=int(finetuned.rank[query]),
            base_score=float(base.metrics[METRIC][query]),
            finetuned_score=float(finetuned.metrics[METRIC][query]),
            base_first=page(int(base.first[query])),
            finetuned_first=page(int(finetuned.first[query])),
        )
        for query in chosen
    ]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where they are installed."""
    found = {name: runtime.installed(name) for name in PACKAGES}
    return {"Python": platform.python_version(), **{name: one for name, one in found.items() if one is not None}}


def hardware() -> dict[str, str]:
    """The machine: system, cores, memory, and the GPU where there is one."""
    facts = {"system": f"{platform.system()} {platform.machine()}", "processor cores": str(runtime.cores())}
    facts["free memory"] = f"{runtime.available_memory() / 1e9:.0f} GB"
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name(0)
    return facts
