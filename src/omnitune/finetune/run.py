"""From a folder of documents, recordings or clips to a finetuned retriever and a report of how much better it is.

`finetune` below is the whole way. Each step is done once, and again only when its inputs change or its files are gone
(`steps`); the report is made anew every time. A run that was killed goes on where it was, training from its last
checkpoint.

    out/
      dataset/       pages, queries, splits             embeddings/   of the test, by model
      checkpoints/   of the training                    model/        the finetuned model
      report.html    report.json                        negatives.jsonl
      retriever/     the chosen retriever               ladder.npz    what it and simpler ones found
      head.safetensors                                  a head for late interaction
"""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from omnitune import folders, runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.errors import MissingExtraError
from omnitune.finetune.choose import ModelChoice, choose, loading, text_embedder
from omnitune.finetune.dataset import as_given, kind_of_folder, prepare_step, read_pages
from omnitune.finetune.feedback import divide, encode_votes, read_votes
from omnitune.finetune.fit import epochs_of, train_on
from omnitune.finetune.measure import TEST_FILES, base_inputs, encode_test, has_text, save_test
from omnitune.finetune.questions import known_questions, read_questions
from omnitune.finetune.recipe import Recipe, load_recipe
from omnitune.finetune.rerank import RerankerSteps
from omnitune.finetune.results import RunResults, make_report
from omnitune.finetune.retriever import RetrieverSteps
from omnitune.finetune.scans import scans_of
from omnitune.finetune.steps import Log, Steps, open_run
from omnitune.finetune.windows import cut_pages, encode_windows, text_reader, unread_share
from omnitune.model.dense import SentenceTransformer
from omnitune.modules.files import HubOptions, resolve
from omnitune.places import check_outside
from omnitune.report.html import write_report
from omnitune.report.results import Report
from omnitune.report.run_card import write_run_cards
from omnitune.runtime import about

logger = logging.getLogger(__name__)

SAMPLE = 9
"""Pages that are timed for the estimate, the first of them as a warm-up."""

LEAST_UNREAD = 0.01
"""Share of the texts behind the first windows from which it is worth a line."""

_RECOGNISING = 0.5
"""Seconds of one core that recognising a page takes (`modules.readers.text`)."""

_QUERY = 0.05
"""Seconds that measuring all rungs of the ladder takes a query."""

_HEAD = 0.03
"""Seconds that mining for a head and training it take a training query."""

_PASSES = 3.5
"""Forwards that a training step is worth: one forward, a backward of two, and some replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Report of a run, and the places of everything it made.

    Example:
        >>> from omnitune.finetune import finetune
        >>> outcome = finetune("manuals", "run")  # takes minutes  # doctest: +SKIP
        >>> finetuned = SentenceTransformer(str(outcome.model))  # doctest: +SKIP
        >>> retriever = Retriever.open(outcome.retriever)  # doctest: +SKIP
    """

    report: Report
    html: Path
    json: Path
    model: Path
    dataset: Path
    retriever: Path | None = None


def finetune(
    folder: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    recipe: str | Path | Recipe | None = None,
    kind: str | None = None,
    split: str | None = None,
    language: str | None = None,
    epochs: float | None = None,
    negatives: int | None = None,
    queries: str | None = None,
    query_model: str | None = None,
    reranker: bool = False,
    reranker_model: str | None = None,
    distill: bool = False,
    distill_loss: str | None = None,
    allow: Collection[str] = (),
    questions: str | Path | Sequence[str | Path] = (),
    feedback: str | Path | None = None,
    command: str = "",
    log: Log = logger.info,
) -> Outcome:
    """Finetune a retriever on a folder of documents and report how much better it finds their pages, or segments.

    Calling it again with the same `out` goes on where the last run stopped.

    Args:
        folder: Documents (PDF files and images), recordings or clips, in subfolders too.
        out: Where everything goes.
        model: A directory, a repository or `"embedded"`; None takes what fits the machine.
        recipe: A recipe, its file, or the name of one that comes with omnitune; None takes the one that fits the model.
        kind: Files that count where the folder holds several kinds: "pages", "recordings" or "clips".
        split: "documents" tests on documents that training never saw, "pages" on other pages of the same ones.
        language: Language of scanned pages, such as "deu" or "eng+fra", as its model in Tesseract is called.
        epochs: Passes of training over the rows.
        negatives: Hard negatives a query, 0 for none.
        queries: Writer of training queries: "extractive", "endpoint" or "local".
        query_model: Model that writes them.
        reranker: Also train a reranker on the finetuned retriever's candidates, and measure both together.
        reranker_model: Model that it starts from.
        distill: Also train the retriever on the reranker's scores, and measure that; implies `reranker`.
        distill_loss: "margin_mse" or "kl".
        allow: Settings that a recipe may turn on though they reach outside the run: "trust_remote_code", "push_to_hub".
        questions: File, or files, of questions and the pages that answer them (`questions.read_questions`): those to
            training documents help to choose the retriever, those to held-out documents are part of the test.
        feedback: File of votes that `omnitune serve` wrote: half of the questions train, the others test
            (`feedback.divide`).
        command: Command that started the run, for the report.
        log: Called with what is done and what it will cost, a line at a time.

    Settings that are None are the recipe's.

    Raises:
        RecipeError: The recipe, or a setting that goes before it, has an unknown key or value.
        DatasetError: The folder has too few documents, or too little text to make queries from.
        ResourceError: The disk is full, and what was made before is kept; or another process works in `out`.

    Example:
        >>> outcome = finetune("manuals", "run")  # takes minutes  # doctest: +SKIP
        >>> outcome.report.headline.base.value, outcome.report.headline.finetuned.value  # doctest: +SKIP
        (0.530, 0.603)
    """
    folder, out = Path(folder), Path(out)
    check_outside(folder, out)
    files = [questions] if isinstance(questions, str | Path) else questions
    brought = [one for file in files for one in read_questions(file)]
    votes = None if feedback is None else read_votes(feedback)
    given = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe, allow=allow)
    if given is not None or kind is not None:
        given = (given or Recipe()).changed(prepare__kind=kind)
    chosen = choose(model, given, kind_of_folder(folder, given))
    settings = chosen.recipe.changed(
        prepare__split=split,
        model__language=language,
        training__num_train_epochs=epochs,
        negatives__count=negatives,
        queries__writer=queries,
        queries__model=query_model,
        reranker__model=reranker_model,
        reranker__distill_loss=distill_loss,
    )
    chosen = chosen.changed(settings)
    with open_run(out, task="finetuning") as steps:
        log(f"Model: {chosen.shown}. {chosen.why}")
        if chosen.late:
            log("Its late interaction on the pages is a candidate as it is; what is finetuned is its dense form")
        log(f"Settings: {Path(settings.source).name}")
        chosen.fetch()
        if (reranker or distill) and settings.reranker.model:
            resolve(settings.reranker.model, HubOptions())
        dataset = as_given(prepare_step(steps, folder, settings, log), chosen)
        brought = known_questions(brought, dataset, log)
        encode_with_base(steps, chosen, dataset, log)
        encode_text_layer(steps, chosen, dataset, log)
        divided = None if votes is None else divide(votes, dataset, log)
        trained_on = dataset if divided is None else divided.dataset
        train_on(steps, chosen, trained_on, log, cost=training_cost(steps, settings, trained_on))
        encode_with_trained(steps, settings, dataset, log)
        test_votes = None
        if divided is not None:
            brought = [*brought, *divided.training]
            test_votes = divided.test
            if test_votes is not None:
                encode_votes(steps, chosen, test_votes)
        if reranker or distill:
            further = RerankerSteps(steps, chosen, dataset, log)
            further.rerank()
            if distill:
                further.distill()
                encode_with_trained(steps, settings, dataset, log, distilled=True)
        ladder = None
        if settings.retriever.build:
            ladder = RetrieverSteps(steps, chosen, dataset, brought, log)
            ladder.run()
        log("Writing the report")
        command = command or f"omnitune finetune {folder} --out {out}"
        report = make_report(RunResults(steps=steps, chosen=chosen, dataset=dataset, command=command, ladder=ladder,
                                        votes=test_votes))  # fmt: skip
        html, data = write_report(report, out)
        write_run_cards(report, out)
        return Outcome(
            report=report,
            html=html,
            json=data,
            model=out / "model",
            dataset=out / "dataset",
            retriever=None if ladder is None else ladder.place,
        )


def encode_with_base(steps: Steps, chosen: ModelChoice, dataset: DocumentDataset, log: Log) -> None:
    """Read all pages where the model has a reader, then encode the test with the base model."""
    inputs = base_inputs(chosen, dataset)
    place = steps.folder / "embeddings" / "base"
    loaded = cache(chosen.load)
    if not steps.holds("base", inputs):
        estimate(loaded(), chosen, dataset, log)
    steps.run("read", inputs, lambda _: read_pages(loaded(), dataset, log))

    def work(_: str) -> int:
        if not (dataset.as_text and chosen.recipe.retriever.build):
            _encode(loaded(), dataset, place, chosen.recipe, log, "base")
            return len(dataset.pages)
        # The ladder reads every window: what the model alone sees of a page is the first of them.
        model = text_reader(chosen)[0]
        assert model is not None, "the embedded model is installed: it was asked for before"
        pages = cut_pages(model, dataset.page_texts)
        count, words = sum(map(len, pages)), dataset.kind.words
        log(f"Encoding {count:,} windows of {len(pages):,} {words.page}s with the base model")
        windows = steps.folder / "embeddings" / "windows"
        made = encode_windows(model, pages, windows, batch_size=chosen.recipe.evaluation.batch_size)
        save_test(place, np.asarray(model.encode_query(dataset.test_queries, show_progress_bar=False)), made.first)
        return count

    steps.run("base", inputs, work, makes=[place])


def estimate(model: SentenceTransformer, chosen: ModelChoice, dataset: DocumentDataset, log: Log) -> None:
    """Say how much of the texts the model alone would not read, and what the run will take, from a few pages' time."""
    recipe, pages = chosen.recipe, dataset.items

    def seconds(model: SentenceTransformer, some: Sequence[Any]) -> float:
        started = time.perf_counter()
        model.encode_document(list(some), batch_size=recipe.evaluation.batch_size, show_progress_bar=False)
        return (time.perf_counter() - started) / max(1, len(some))

    seconds(model, pages[:1])  # the first call is slower than all others
    # Spread over all, because the last pages of a document are short. Those that are read are the last ones: an earlier
    # run that was killed has read the first.
    spread = pages[:: max(1, len(pages) // (SAMPLE - 1))][: SAMPLE - 1]
    sample = spread if dataset.as_text else pages[1 - SAMPLE :]
    first, again = seconds(model, sample), seconds(model, sample)  # what is read once is kept: this is encoding alone
    # Texts are not read again: what the first time took more is noise.
    reading = 0.0 if dataset.as_text else max(0.0, first - again) * len(pages)
    encoding = 2 * again * len(pages)
    rows = len(dataset.train)
    training = _PASSES * again * rows * (1 + recipe.negatives.count) / runtime.ranks() * epochs_of(recipe, rows)
    choosing = 0.0
    build = recipe.retriever.build and has_text(dataset.page_texts)
    reader = text_reader(chosen)[0] if build else None
    if reader is not None:
        windows = cut_pages(reader, dataset.page_texts)
        words, share = dataset.kind.words, unread_share(windows, dataset.page_texts)
        if share > LEAST_UNREAD:
            log(
                f"{reader.max_seq_length} tokens, which the model reads at once, would leave {share:.0%} of the "
                f"{words.text}s unread: {words.page}s are read in {sum(map(len, windows)):,} windows"
            )
        each = again if dataset.as_text else seconds(reader, [windows[-1][0]] * 4)
        encoding += each * (sum(map(len, windows)) - (len(pages) if dataset.as_text else 0))
        choosing = _QUERY * (4 * len(dataset.queries) + recipe.retriever.queries)
        if recipe.retriever.head_epochs:
            choosing += _HEAD * rows
        if scans_of(dataset):
            held_out = len(dataset.pages_of("test"))
            choosing += held_out * (_RECOGNISING / runtime.cores() + each * sum(map(len, windows)) / len(pages))
    log(
        f"About {about(reading + encoding + training + choosing)} from here on: reading {about(reading)}, encoding "
        f"{about(encoding)}, training {about(training)}, choosing and measuring a retriever {about(choosing)}"
    )


def encode_text_layer(steps: Steps, chosen: ModelChoice, dataset: DocumentDataset, log: Log) -> None:
    """Encode the text layer with MiniLM, for the baseline; where that cannot be, the report says why."""
    recipe = chosen.recipe
    # The embedded model is MiniLM: given texts, it is that baseline itself.
    wanted = "text" in recipe.evaluation.baselines and not dataset.as_text
    inputs = {"dataset": dataset.fingerprint, "wanted": wanted}
    place, words = steps.folder / "embeddings" / "text", dataset.kind.words

    def work(_: str) -> dict[str, Any]:
        folders.discard(place, TEST_FILES)
        if not wanted:
            return {"encoded": False, "note": ""}
        if not has_text(dataset.page_texts):
            note = f"The {words.document}s have no {words.text}, so there is no baseline on it."
            return {"encoded": False, "note": note}
        try:
            model = text_embedder()
        except MissingExtraError as error:
            log(f"No text baseline: {error}")
            note = "The text baseline is missing, because the packages of the extra `demo` are not installed."
            return {"encoded": False, "note": note}
        texts: Sequence[str] = dataset.page_texts
        size, label = recipe.evaluation.batch_size, f"Encoding the {words.text}"
        encode_test(model, dataset.test_queries, texts, place, batch_size=size, label=label)
        return {"encoded": True, "note": ""}

    steps.run("text baseline", inputs, work, makes=[place])


def encode_with_trained(
    steps: Steps, recipe: Recipe, dataset: DocumentDataset, log: Log, *, distilled: bool = False
) -> None:
    """Encode the test with the finetuned model, or with the one that the reranker was distilled into."""
    step, name, folder = ("distill", "distilled", "distilled") if distilled else ("train", "finetuned", "model")
    place = steps.folder / "embeddings" / name
    inputs = {"train": steps.done[step].key, "batch_size": recipe.evaluation.batch_size}

    def work(_: str) -> None:
        model = SentenceTransformer(str(steps.folder / folder), **loading(recipe))
        _encode(model, dataset, place, recipe, log, name)

    steps.run("evaluate distilled" if distilled else "evaluate", inputs, work, makes=[place])


def training_cost(steps: Steps, recipe: Recipe, dataset: DocumentDataset) -> str:
    """Estimate from the time that encoding took; the ranks of a distributed run share the pages."""
    base = steps.done["base"]
    each = base.seconds / max(1, base.result or len(dataset.pages))
    rows = len(dataset.train)
    pages = rows * (1 + recipe.negatives.count) / runtime.ranks()
    return f": about {about(_PASSES * each * pages * epochs_of(recipe, rows))}"


def _encode(
    model: SentenceTransformer, dataset: DocumentDataset, place: Path, recipe: Recipe, log: Log, name: str
) -> None:
    size, pages = recipe.evaluation.batch_size, dataset.items
    if dataset.as_text:
        pages = [windows[0] for windows in cut_pages(model, dataset.page_texts)]
    log(f"Encoding {len(pages):,} {dataset.kind.words.page}s with the {name} model")
    label = f"Encoding with the {name} model"
    encode_test(model, dataset.test_queries, pages, place, batch_size=size, label=label)
