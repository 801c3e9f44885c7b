"""The steps that end a run with a retriever: encode whole pages, choose stages on validation, measure on the test once.

    out/
      retriever/            the chosen one, to open with `Retriever.open`
      embeddings/windows/   token vectors and vectors of all windows by content, so that nothing is encoded twice
      ladder.npz            what every rung found for the test queries

The choice sees the validation documents alone: those that were held out for it, else the training documents, of which
models that were trained on them are left out.
"""

import logging
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune import io
from omnitune.documents.dataset import DocumentDataset
from omnitune.errors import MissingExtraError
from omnitune.finetune.candidates import (
    LEXICAL,
    Candidate,
    Scored,
    candidates_for,
    choose_standing,
    deciding,
    measure,
    scored,
    stand,
)
from omnitune.finetune.choose import ModelChoice, loading, model_identity, text_embedder
from omnitune.finetune.measure import (
    METRIC,
    QueryMetrics,
    TestSet,
    cosine_search,
    has_text,
    load_test,
    score_search,
    test_sets,
    unit,
)
from omnitune.finetune.questions import Question, question_set
from omnitune.finetune.steps import Log, Steps, announce
from omnitune.model.dense import SentenceTransformer
from omnitune.model.embedded import EMBEDDED
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.stages import (
    DenseStage,
    LateStage,
    LexicalStage,
    LineStage,
    ListingStage,
    Stage,
    TokenVectors,
)
from omnitune.retrieval.store import encode_corpus, identity
from omnitune.retrieval.windows import grouped, window_cutter

logger = logging.getLogger(__name__)

OVERLAP = 0.1
"""Share of a window that the next one repeats. Windows end where sentences do, and every repeated token is encoded and
kept twice."""

CANDIDATES = 64
"""Pages of a query that each stage proposes to late interaction."""

LARGE = 300_000_000
"""Parameters from which a model is too dear to encode every window of text with it."""

_TIMED = 12
_CHUNK = 512
"""Windows between two writes of the store: what a stop can lose."""

_VERSION = 1
"""Changes when the same inputs would give another retriever."""


class _BothOf(TokenVectors):
    """Token vectors of a window and, as its last row, the vector of the window: one forward serves two stages."""

    def encode_document(self, inputs: Sequence[Any], **options: Any) -> list[Any]:
        made = self.model.encode_document(list(inputs), output_value=None, **options)
        tokens = [one["token_embeddings"].float().cpu().numpy()[: int(one["attention_mask"].sum())] for one in made]
        kept = self.said(inputs, list(map(len, tokens)))
        return [
            np.concatenate([unit(rows[mask]), unit(one["sentence_embedding"].float().cpu().numpy()[None])])
            for rows, mask, one in zip(tokens, kept, made, strict=True)
        ]


class RetrieverSteps:
    """The steps, in order; each does nothing where it is done.

    Args:
        steps: Of the run, whose model is finetuned and evaluated.
        chosen: The model and the settings.
        dataset: Pages and queries.
        questions: That a user brought; those about training documents help to choose, those about held-out documents
            are part of the test, all others are left out.
        log: Called with what is done.
    """

    def __init__(
        self, steps: Steps, chosen: ModelChoice, dataset: DocumentDataset, questions: Sequence[Question], log: Log
    ) -> None:
        self.steps, self.chosen, self.dataset, self.questions, self.log = steps, chosen, dataset, questions, log
        self.settings, self.evaluation = chosen.recipe.retriever, chosen.recipe.evaluation
        self.out = steps.folder
        self.place = self.out / "retriever"
        self.held_out = bool(dataset.validation.queries)
        self.text = has_text(dataset.page_texts)

    def run(self) -> None:
        """Choose, build and save the retriever, then measure the ladder on the test documents."""
        asked = [[one.text, *one.pages] for one in self.questions]
        inputs = {
            "version": _VERSION,
            "dataset": self.dataset.facts["fingerprint"],
            "encoder": self._encoder_identity,
            "settings": self.chosen.recipe.settings()["retriever"],
            "intervals": [self.evaluation.resamples, self.evaluation.confidence, self.evaluation.seed],
            "questions": asked,
            # Only a retriever that could use the finetuned model changes with it.
            "train": self.steps.done["train"].key if self._trained_counts else None,
        }
        made = self.steps.run("retriever", inputs, lambda _: self._build(), makes=[self.place])
        inputs = {
            "retriever": made.key,
            "base": self.steps.done["base"].key,
            "evaluate": self.steps.done["evaluate"].key,
        }
        file = self.out / "ladder.npz"
        self.steps.run("ladder", inputs, lambda _: self._measure(file), makes=[file])

    # -- choosing

    def _build(self) -> dict[str, Any]:
        tests = deciding(self.validation())
        pool = self.pool
        words = self.dataset.kind.words
        counted = " and ".join(f"{len(test.queries):,} {name}" for name, test in tests.items())
        self.log(f"Choosing a retriever by {counted} of " + ("validation" if self.held_out else "training")
                 + f" {words.document}s")  # fmt: skip
        scores = {name: scored(pool, test) for name, test in tests.items()}
        there = list(pool.stages)
        listed = candidates_for(self.settings, there)
        if not self.text:
            listed = [Candidate(name="dense", main="dense", trained=True)]
        baseline = {
            name: measure(scores[name], {listed[0].main if LEXICAL not in there else LEXICAL: 1.0}, test).metrics[
                METRIC
            ]
            for name, test in tests.items()
        }
        queries = next(iter(tests.values())).queries
        standings = []
        for one in listed:
            costs = self._costs(pool, dict.fromkeys([one.main, *one.others], 1.0), queries)
            found = stand(one, scores, tests, baseline, self.evaluation, costs, self.settings, held_out=self.held_out)
            standings.append(found)
            self.log(f"  {found.name}: {found.value:.3f} ({found.low:+.3f} to {found.high:+.3f} against lexical), "
                     f"{found.bytes_per_page:,} bytes a {words.page}, {found.milliseconds:.0f} ms a query")  # fmt: skip
        best, why = choose_standing(standings, pinned=self.settings.stages is not None)
        self.log(f"Chosen: {best.name}. {why}")
        retriever = pool.only(best.weights)
        shutil.rmtree(self.place, ignore_errors=True)
        retriever.save(self.place)
        return {
            "name": best.name,
            "weights": best.weights,
            "why": why,
            "standings": [one.plain() for one in standings],
            "validation": {name: len(test.queries) for name, test in tests.items()},
            "held_out": self.held_out,
        }

    def validation(self) -> dict[str, TestSet | None]:
        """Queries that decide: titles, and questions where some were brought, of documents outside the test."""
        row = {page: number for number, page in enumerate(self.dataset.page_ids)}
        rows = [row[page] for page in self.dataset.pages_of("validation" if self.held_out else "train")]
        among = set(rows)
        if self.held_out:
            asked = self.dataset.validation
            pairs = {text: {row[page] for page in asked.relevant[name]} for name, text in asked.queries.items()}
        else:
            table = self.dataset.tables["train"]
            pairs = {}
            best = next(
                (o for o in ("title", "caption", "heading", "model", "sentence") if o in set(table["origin"])), ""
            )
            for query, page, origin in zip(table["query"], table["page_id"], table["origin"], strict=True):
                if origin == best:
                    pairs.setdefault(query, set()).add(row[page])
        kept = [(query, sorted(pages & among)) for query, pages in sorted(pairs.items()) if pages & among]
        if len(kept) > self.settings.queries:
            drawn = np.random.default_rng(self.settings.seed).choice(len(kept), self.settings.queries, replace=False)
            kept = [kept[number] for number in sorted(drawn)]
        titles = TestSet(
            queries=[query for query, _ in kept],
            relevant=[pages for _, pages in kept],
            rows=rows,
            clusters=[pages[0] for _, pages in kept],
        )
        return {"titles": titles if kept else None, "questions": question_set(self.dataset, self.questions, rows)}

    def _costs(self, pool: Retriever, weights: Mapping[str, float], queries: Sequence[str]) -> tuple[int, float]:
        """Bytes a page of some stages, and the median milliseconds of a query.

        The time is the processor's, so that what else the machine does has no part in the choice.
        """
        some = pool.only(weights)
        held = sum(array.nbytes for part in some.segments.parts for name, array in part.arrays.items() if "." in name)
        seconds = []
        for query in [queries[0], *queries[:_TIMED]]:
            started = time.process_time()
            some.search(query)
            seconds.append(time.process_time() - started)
        return held // max(1, len(some)), 1000 * statistics.median(seconds[1:])

    # -- encoding

    @property
    def _trained_counts(self) -> bool:
        return not self.text

    @cached_property
    def _encoder_identity(self) -> Any:
        return self.chosen.identity() if self.chosen.name != EMBEDDED else model_identity(EMBEDDED)

    def _encoder(self) -> SentenceTransformer | None:
        """The model that reads text whole: the run's own before finetuning, or MiniLM where that is too large."""
        if self.chosen.name != EMBEDDED:
            model = self.chosen.load()
            if model.supports("text") and sum(weight.numel() for weight in model.parameters()) < LARGE:
                return model
        try:
            return text_embedder()
        except MissingExtraError as error:
            self.log(f"No dense stages over texts: {error}")
            return None

    @cached_property
    def pool(self) -> Retriever:
        """All pages with every stage that there can be."""
        table = self.dataset.tables["pages"].select_columns(["page_id", "document", "number", "label", "text"])
        paths = [item["path"] for item in self.dataset.pages]
        items = [
            {
                "id": one["page_id"],
                "document": one["document"],
                "page": one["number"],
                "times" if self.dataset.kind.segmentations else "label": one["label"],
                "path": path,
                "text": one["text"],
            }
            for one, path in zip(table, paths, strict=True)
        ]
        if not self.text:
            model = SentenceTransformer(str(self.out / "model"), **loading(self.chosen.recipe))
            _, pages = load_test(self.out / "embeddings" / "finetuned")
            sees = DenseStage(model=model, reads="path", windows=False)
            sees.encoder()
            encoded = {"dense": Packed(values=unit(pages), dim=pages.shape[1])}
            return Retriever.build(items, [sees], encoded=encoded, show_progress=False)
        stages: list[Stage] = [LexicalStage(), LineStage(), ListingStage()]
        reader = self._encoder()
        if reader is None:
            return Retriever.build(items, stages, show_progress=False)
        dense, late = self._encode(reader, [item["text"] for item in items])
        for stage in (
            DenseStage(model=reader, overlap=OVERLAP),
            LateStage(model=reader, overlap=OVERLAP, codec="int8", candidates=CANDIDATES),
        ):
            stage.encoder()
            stages.append(stage)
        return Retriever.build(items, stages, encoded={"dense": dense, "late": late}, show_progress=False)

    def _encode(self, model: SentenceTransformer, texts: Sequence[str]) -> tuple[Packed, Packed]:
        """Vectors of all pages' windows, and of all their tokens."""
        both = _BothOf(model)
        cut = window_cutter(both, prompt=(both.prompts or {}).get("document"), overlap=OVERLAP)
        parts = [cut(text) for text in texts]
        flat = [window for windows in parts for window in windows]
        size = self.evaluation.batch_size
        what = f"Encoding {len(flat):,} windows of {len(texts):,} {self.dataset.kind.words.page}s"
        place = self.out / "embeddings" / "windows"
        if not place.is_dir():
            announce(what, flat, lambda few: both.encode_document(few, show_progress_bar=False), self.log)
        made = encode_corpus(
            both,
            flat,
            place,
            label="Encoding whole pages",
            unit="window",
            chunk_size=_CHUNK,
            dtype="float16",
            weights=identity(model),
            batch_size=size,
        )
        assert made.offsets is not None, "token vectors are ragged"
        last = np.zeros(len(made.values), dtype=bool)
        last[made.offsets[1:] - 1] = True
        windows = Packed(values=made.values[last], dim=made.dim)
        shorter = made.offsets - np.arange(len(made.offsets))
        tokens = Packed(values=made.values[~last], offsets=shorter, dim=made.dim)
        counts = list(map(len, parts))
        return grouped(windows, counts), grouped(tokens, counts)

    # -- measuring

    def _measure(self, file: Path) -> dict[str, Any]:
        """What every rung finds for titles and questions, among held-out pages and among all."""
        result = self.steps.done["retriever"].result
        chosen = Retriever.open(self.place)
        tests = self.tests()
        self.log(f"Measuring the retriever on {len(tests['titles'].queries):,} test queries")
        pool = self.pool
        weights = {one["name"]: one["weights"] for one in result["standings"]}
        kept: dict[str, Any] = {}
        encoded = self._asked_images(tests)
        rungs = []
        for name, test in tests.items():
            scores = scored(pool, test)
            for rung, some in weights.items():
                if rung != result["name"]:
                    kept |= _named(rung, name, measure(scores, some, test))
            own: Scored = scored(chosen, test)
            kept |= _named(result["name"], name, measure(own, result["weights"], test))
            for rung, embedded in encoded.items():
                queries = embedded[0] if not name.startswith("questions") else embedded[2]
                found = score_search(cosine_search((queries, embedded[1]), test.rows), test)
                kept |= _named(rung, name, found)
        costs = {one["name"]: [one["bytes_per_page"], one["milliseconds"]] for one in result["standings"]}
        costs |= {rung: [4 * embedded[1].shape[1], None] for rung, embedded in encoded.items()}
        speed = self._costs(chosen, result["weights"], tests["titles"].queries)
        costs[result["name"]] = [speed[0], speed[1]]
        with io.writing(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, **kept)
        rungs = list(costs)
        return {"rungs": rungs, "costs": costs}

    def tests(self) -> dict[str, TestSet]:
        """Test queries by name: titles and questions, each among held-out pages and, with " in all", among all."""
        near, far = test_sets(self.dataset)
        made = {"titles": near, "titles in all": far}
        asked = question_set(self.dataset, self.questions, near.rows)
        if asked is not None:
            everywhere = question_set(self.dataset, self.questions, far.rows, only=near.rows)
            assert everywhere is not None, "their pages are among all"
            made |= {"questions": asked, "questions in all": everywhere}
        return made

    def _asked_images(self, tests: Mapping[str, TestSet]) -> dict[str, tuple[Any, Any, Any]]:
        """Embeddings of titles, pages and questions of the models that read page images."""
        made = {}
        sees = self.dataset.kind.words.sees
        for name, folder in (("base", "base"), ("finetuned", "finetuned")):
            queries, pages = load_test(self.out / "embeddings" / folder)
            asked = queries[:0]
            if "questions" in tests:
                model = (
                    self.chosen.load()
                    if name == "base"
                    else SentenceTransformer(str(self.out / "model"), **loading(self.chosen.recipe))
                )
                asked = model.encode_query(list(tests["questions"].queries), show_progress_bar=False)
            made[f"dense on the {sees}, {name}"] = (queries, pages, asked)
        return made


def _named(rung: str, test: str, found: QueryMetrics) -> dict[str, NDArray[Any]]:
    return {
        f"{rung}|{test}|{METRIC}": found.metrics[METRIC],
        f"{rung}|{test}|rank": found.rank,
        f"{rung}|{test}|best": found.best,
        f"{rung}|{test}|first": found.first,
    }


def load_ladder(file: Path, rungs: Sequence[str], tests: Sequence[str]) -> dict[str, dict[str, QueryMetrics]]:
    """What `ladder.npz` holds: metrics by rung and set of queries."""
    with np.load(file) as kept:
        return {
            rung: {
                test: QueryMetrics(
                    metrics={METRIC: kept[f"{rung}|{test}|{METRIC}"]},
                    rank=kept[f"{rung}|{test}|rank"],
                    best=kept[f"{rung}|{test}|best"],
                    first=kept[f"{rung}|{test}|first"],
                )
                for test in tests
            }
            for rung in rungs
        }
