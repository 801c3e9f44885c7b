"""The steps that end a run with a retriever: choose stages on validation, build, measure on the test once.

    out/
      retriever/            the chosen one, to open with `Retriever.open`
      embeddings/windows/   token vectors and vectors of all windows by content, so that nothing is encoded twice
      head.safetensors      the head for late interaction that was trained
      ladder.npz            what every rung found for the test queries

No choice sees the test documents. Candidates that were trained on nothing are compared on all other documents. One that
was trained is compared with the best of those on documents that its training did not see (`QuerySets.judges`), and
takes its place where it is measurably better there.
"""

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omnitune import folders, io, runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.errors import OmnituneError
from omnitune.finetune.candidates import (
    LEXICAL,
    TEXT,
    Candidate,
    Standing,
    candidates_for,
    choose_standing,
    deciding,
    found_search,
    judged,
    measure,
    replacing,
    scored,
    stand,
)
from omnitune.finetune.choose import ModelChoice, loading, model_identity
from omnitune.finetune.head import train_late_head
from omnitune.finetune.measure import (
    METRIC,
    QueryMetrics,
    TestSet,
    cosine_search,
    load_test,
    score_search,
)
from omnitune.finetune.pools import HEAD, HEAD_FILE, Pools, Source
from omnitune.finetune.query_sets import FEW, QuerySets
from omnitune.finetune.questions import Question
from omnitune.finetune.scans import as_scans
from omnitune.finetune.steps import Log, Steps
from omnitune.model.dense import SentenceTransformer
from omnitune.places import EMBEDDED, RETRIEVER, is_embedded
from omnitune.retrieval.retriever import Retriever
from omnitune.retrieval.retriever_folder import is_ours, is_retriever
from omnitune.retrieval.segments import CHANGING
from omnitune.retrieval.stages import ModelStage, RerankStage, load_encoder

logger = logging.getLogger(__name__)

_TIMED = 12
_WALL = 60
"""Queries that are timed for the choice, and by the clock for the report."""

_VERSION = 5
"""Changes when the same inputs would give another retriever."""


class RetrieverSteps:
    """The steps, in order; each does nothing where it is done.

    Args:
        steps: Of the run, whose model is finetuned and evaluated.
        chosen: The model and the settings.
        dataset: Pages and queries.
        questions: That a user brought; those about held-out documents are part of the test, those about others help to
            choose, and those with pages on both sides are left out.
        log: Called with what is done.
    """

    def __init__(
        self, steps: Steps, chosen: ModelChoice, dataset: DocumentDataset, questions: Sequence[Question], log: Log
    ) -> None:
        self.steps, self.chosen, self.dataset, self.log = steps, chosen, dataset, log
        self.settings, self.evaluation = chosen.recipe.retriever, chosen.recipe.evaluation
        self.out = steps.folder
        self.place = self.out / "retriever"
        self.sets = QuerySets(dataset, questions, chosen.recipe.retriever)
        self.pools = Pools(chosen, dataset, self.out)
        self.text = self.pools.text

    def run(self) -> None:
        """Choose, build and save the retriever, then measure the ladder on the test documents."""
        asked = [[one.text, *one.pages] for one in self.sets.questions]
        inputs = {
            "version": _VERSION,
            "dataset": self.dataset.fingerprint,
            "encoder": model_identity(EMBEDDED) if is_embedded(self.chosen.name) else self.chosen.identity(),
            "settings": self.chosen.recipe.settings()["retriever"],
            "intervals": [self.evaluation.resamples, self.evaluation.confidence, self.evaluation.seed],
            "questions": asked,
            # Only a retriever that could use the finetuned model changes with it.
            "train": self.steps.done["train"].key if self.sets.held_out or not self.text else None,
            "reranker": self.steps.done["reranker"].key
            if "reranker" in self.steps.done and self.sets.held_out
            else None,
        }
        if self.settings.sparse is not None:
            inputs["sparse"] = model_identity(self.settings.sparse)
        if self.sets.judges and self.text and self.settings.stages is None and self.settings.head_epochs:
            same = ("version", "dataset", "encoder", "settings", "questions")
            head = {name: inputs[name] for name in same}
            inputs["head"] = self.steps.run("head", head, lambda _: self._head(), makes=[self.out / HEAD_FILE]).key
        # Its index changes where somebody adds documents, and is no reason to make it anew while it is whole.
        stays = [self.place / RETRIEVER, self.place / "model"]
        if self._former() is None:
            self.steps.forget("retriever")
        made = self.steps.run("retriever", inputs, lambda _: self._build(), makes=stays)
        inputs = {
            "retriever": made.key,
            "base": self.steps.done["base"].key,
            "evaluate": self.steps.done["evaluate"].key,
        }
        file = self.out / "ladder.npz"
        self.steps.run("ladder", inputs, lambda _: self._measure(file), makes=[file])

    def _former(self) -> Retriever | None:
        """The retriever that lies there, where it is whole."""
        try:
            return Retriever.open(self.place)
        except OmnituneError:
            return None

    # -- choosing

    def _head(self) -> dict[str, Any]:
        """Train a head for late interaction, where there is any."""
        file = self.out / HEAD_FILE
        folders.discard(self.out, [file.name])
        pool = self.pools.pool(TEXT)
        if "late" not in pool.stages:
            return {"why": "No stage reads texts."}
        asked = [(one.text, page) for one in self.sets.questions for page in one.pages]
        told = train_late_head(pool, self.pools.token_vectors, self.dataset, asked, self.sets.judges, self.settings,
                               file, self.log)  # fmt: skip
        if "why" in told:
            self.log(f"No head for late interaction: {told['why']}")
        return told

    def _build(self) -> dict[str, Any]:
        tests = deciding(self.sets.validation())
        counted = " and ".join(f"{len(test.queries):,} {name}" for name, test in tests.items())
        self.log(f"Choosing a retriever by {counted} of {self.sets.sides}")
        trained: list[Standing] = []
        if not self.text:
            source = next(one for one in self.pools.sources if one.trained)
            listed = [Candidate(name="dense", main="dense", source=source)]
            standings = self._standings(listed, tests, None)
            best, why = choose_standing(standings)
        else:
            untrained = [one for one in self.pools.sources if not one.trained]
            listed = [one for source in untrained for one in self._candidates(source, self.pools.pool(source))]
            standings = self._standings(listed, tests, None)
            best, why = choose_standing(standings, pinned=self.settings.stages is not None)
            if self.sets.judges and self.settings.stages is None:
                trained = self._trained(best)
                best, why = replacing(best, why, trained)
        decided = sum(len(test.queries) for test in tests.values())
        if best.name == LEXICAL and decided < FEW and self.settings.stages is None:
            why += f" {decided} queries are few to tell it by: bring your own with --questions FILE."
        self.log(f"Chosen: {best.name}. {why}")
        retriever = self.pools.pool(best.source).only(best.weights)
        retriever.rerank = self._reranker() if best.rerank else None
        retriever.language = self.chosen.recipe.model.get("language")
        with folders.locked(self.place / "index", task=CHANGING):  # so that nobody adds to the one that goes
            if (former := self._former()) is not None:
                own = set(self.dataset.tables["pages"]["document"])
                added = [document for document in former.documents if document not in own]
                if added:
                    self.log(
                        f"{len(added)} document(s) that were added to the former retriever are not in the new one: "
                        f"{', '.join(added[:5])}; add them again by omnitune index"
                    )
            ours = is_retriever(self.place)
            with folders.replacing_folder(self.place, gone=lambda path, _: ours and is_ours(path)) as fresh:
                retriever.save(fresh)
        return {
            "name": best.name,
            "why": why,
            "chosen": best.plain(),
            "standings": [one.plain() for one in standings],
            "trained": [one.plain() for one in trained],
            "validation": {name: len(test.queries) for name, test in tests.items()},
            "held_out": self.sets.held_out,
        }

    def _candidates(self, source: Source, pool: Retriever) -> list[Candidate]:
        return candidates_for(self.settings, source, list(pool.stages), self.dataset.kind.words.sees)

    def _trained(self, best: Standing) -> list[Standing]:
        """Compare trained candidates with the best untrained one, on documents that training did not see.

        Only these documents' windows are encoded with the trained model; all others once it is chosen.
        """
        tests = deciding(self.sets.validation(held_out=True))
        if not tests:
            return []
        self.log(
            f"Comparing what was trained with {best.name} on {', '.join(self.sets.judges)} alone, which it did not see"
        )
        own = self.pools.pool(best.source).only(best.weights)
        baseline = {
            name: measure(scored(own, test), best.weights, test).metrics[METRIC] for name, test in tests.items()
        }
        rows = set(next(iter(tests.values())).rows)
        standings: list[Standing] = []
        trained = [source for source in self.pools.sources if source.trained and self.sets.held_out]
        if "head" in self.steps.done and "why" not in self.steps.done["head"].result:
            trained.append(HEAD)
        for source in trained:
            pool = self.pools.make(source, only=rows)
            standings += self._standings(self._candidates(source, pool), tests, baseline, pool, encoded=len(rows))
        if (
            self.sets.held_out
            and "reranker" in self.steps.done
            and not self._reranker().model.supports(self.dataset.kind.modality)
        ):
            standings += self._reranked(best, tests, baseline)
        return standings

    def _reranker(self) -> RerankStage:
        model = load_encoder(self.out / "reranker")
        return RerankStage(model=model, depth=self.chosen.recipe.reranker.depth)

    def _reranked(
        self, best: Standing, tests: Mapping[str, TestSet], baseline: Mapping[str, NDArray[np.float64]]
    ) -> list[Standing]:
        """The run's reranker behind the best untrained candidate, where the recipe has the time for it."""
        own = self.pools.pool(best.source).only(best.weights)
        own.rerank = self._reranker()
        name, costs = f"{best.name}, reranked", self._costs(own, next(iter(tests.values())).queries)
        if costs[1] > self.settings.milliseconds:
            self.log(f"  {name}: not measured, because it takes {costs[1]:,.0f} ms a query of "
                     f"{self.settings.milliseconds:,.0f} that the recipe allows")  # fmt: skip
            return []
        found = {name: score_search(found_search(own, test), test).metrics[METRIC] for name, test in tests.items()}
        standing = judged(name, best.source, best.weights, found, tests, baseline, self.evaluation, costs,
                          self.settings, rerank=True)  # fmt: skip
        self.log(f"  {name}: {standing.value:.3f} ({standing.low:+.3f} to {standing.high:+.3f} against it), "
                 f"{standing.milliseconds:.0f} ms a query")  # fmt: skip
        return [standing]

    def _standings(
        self,
        listed: Sequence[Candidate],
        tests: Mapping[str, TestSet],
        baseline: Mapping[str, NDArray[np.float64]] | None,
        pool: Retriever | None = None,
        encoded: int | None = None,
    ) -> list[Standing]:
        """Compare candidates on some queries with the first of them, where no other baseline is given.

        Args:
            listed: The candidates.
            tests: The queries.
            baseline: NDCG@10 of what they have to beat, query by query.
            pool: Where their stages are; None takes that of their source.
            encoded: Pages of it that models encoded; None for all.
        """
        against = "lexical" if baseline is None else "it"
        standings = []
        for one in listed:
            made = (pool or self.pools.pool(one.source)).only(one.stages)
            alone = baseline is None
            scores = {name: scored(made, test) for name, test in tests.items()}
            if baseline is None:
                found = {name: measure(scores[name], one.stages, test) for name, test in tests.items()}
                baseline = {name: metrics.metrics[METRIC] for name, metrics in found.items()}
            costs = self._costs(made, next(iter(tests.values())).queries, encoded)
            standing = stand(one, scores, tests, baseline, self.evaluation, costs, self.settings)
            standings.append(standing)
            compared = "" if alone else f" ({standing.low:+.3f} to {standing.high:+.3f} against {against})"
            self.log(f"  {standing.name}: {standing.value:.3f}{compared}, {standing.bytes_per_page:,} bytes a "
                     f"{self.dataset.kind.words.page}, {standing.milliseconds:.0f} ms a query")  # fmt: skip
        return standings

    def _costs(self, some: Retriever, queries: Sequence[str], encoded: int | None = None) -> tuple[int, float]:
        """Bytes a page of a retriever, of which models encoded some pages, and the median milliseconds of a query.

        The time is the processor's, so that what else the machine does has no part in the choice; and of one thread,
        because several that wait for one another on a busy machine count their waiting.
        """
        held = 0.0
        for part in some.segments.parts:
            for name, array in part.arrays.items():
                vectors = isinstance(some.stages.get(name.split(".")[0]), ModelStage)
                pages = encoded if vectors and encoded is not None else len(some)
                held += array.nbytes / max(1, pages) if "." in name else 0
        seconds = []
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for query in [queries[0], *queries[:_TIMED]]:
                started = time.process_time()
                some.search(query)
                seconds.append(time.process_time() - started)
        finally:
            torch.set_num_threads(threads)
        return int(held), 1000 * statistics.median(seconds[1:])

    # -- measuring

    def _measure(self, file: Path) -> dict[str, Any]:
        """Measure every rung for titles and questions, among held-out pages and among all."""
        result = self.steps.done["retriever"].result
        tests = self.sets.tests()
        self.log(f"Measuring the retriever on {len(tests['titles'].queries):,} test queries")
        standings = [Standing(**one) for one in result["standings"]]
        best = Standing(**result["chosen"])
        if best.name not in [one.name for one in standings]:
            standings.append(best)
        kept: dict[str, Any] = {}
        costs: dict[str, list[Any]] = {}
        chosen = Retriever.open(self.place)
        count = len(standings) * sum(len(test.queries) for test in tests.values())
        with runtime.progress_bar(label="Measuring", total=count, unit="search") as bar:
            for one in standings:
                retriever = chosen if one.name == best.name else self.pools.pool(one.source).only(one.weights)
                for name, test in tests.items():
                    if one.rerank:
                        found = score_search(found_search(retriever, test), test)
                    else:
                        found = measure(scored(retriever, test), one.weights, test)
                    kept |= _named(one.name, name, found)
                    bar.update(len(test.queries))
                costs[one.name] = [*self._costs(retriever, tests["titles"].queries)]
        for rung, embedded in self._alone(tests).items():
            for name, test in tests.items():
                queries = embedded[0] if not name.startswith("questions") else embedded[2]
                found = score_search(cosine_search((queries, embedded[1]), test.rows), test)
                kept |= _named(rung, name, found)
            costs[rung] = [4 * embedded[1].shape[1], None]
        scans = self._as_scans([one for one in standings if one.name in (LEXICAL, best.name)], best, tests, kept)
        wall = []
        for query in tests["titles"].queries[:_WALL]:
            started = time.perf_counter()
            chosen.search(query)
            wall.append(1000 * (time.perf_counter() - started))
        with io.writing(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, **kept)
        spread = [float(np.percentile(wall, share)) for share in (50, 95)]
        return {"rungs": list(costs), "costs": costs, "scans": scans, "wall": spread}

    def _as_scans(
        self, some: Sequence[Standing], best: Standing, tests: Mapping[str, TestSet], kept: dict[str, Any]
    ) -> list[str]:
        """Measure some retrievers with the held-out pages as recognised in their images."""
        if not self.text or not self.settings.scans or best.reads != "text":
            return []
        texts = as_scans(self.dataset, self.chosen.recipe.model.get("language"), self.log)
        if texts is None:
            return []
        pool = self.pools.make(best.source, texts=texts)
        for one in some:
            retriever = pool.only(one.weights)
            for name, test in tests.items():
                if not name.endswith("in all"):
                    found = measure(scored(retriever, test), one.weights, test)
                    kept |= _named(f"{one.name}, as scans", name, found)
        return [one.name for one in some]

    def _alone(self, tests: Mapping[str, TestSet]) -> dict[str, tuple[Any, Any, Any]]:
        """Embeddings of titles, pages and questions of the model alone, one vector a page, by the rung's name."""
        made = {}
        given = "first window" if self.dataset.as_text else f"{self.dataset.kind.words.sees}"
        # What reads the same as a dense candidate, pages whole, is there already: an image, or the words of a segment.
        again = self.text and not self.dataset.as_text and self.settings.stages is None
        for name, folder in (("base", "base"), ("finetuned", "finetuned"))[again:]:
            queries, pages = load_test(self.out / "embeddings" / folder)
            asked = queries[:0]
            if "questions" in tests:
                model = (
                    self.chosen.load()
                    if name == "base"
                    else SentenceTransformer(str(self.out / "model"), **loading(self.chosen.recipe))
                )
                asked = model.encode_query(list(tests["questions"].queries), show_progress_bar=False)
            made[f"dense on the {given}, {name}"] = (queries, pages, asked)
        return made


def _named(rung: str, test: str, found: QueryMetrics) -> dict[str, NDArray[Any]]:
    return {
        f"{rung}|{test}|{METRIC}": found.metrics[METRIC],
        f"{rung}|{test}|rank": found.rank,
        f"{rung}|{test}|best": found.best,
        f"{rung}|{test}|first": found.first,
    }


def load_ladder(file: Path, rungs: Sequence[str], tests: Sequence[str]) -> dict[str, dict[str, QueryMetrics]]:
    """Read `ladder.npz`: metrics by rung and set of queries."""
    with np.load(file, allow_pickle=False) as kept:
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
