"""From a folder of documents, recordings or clips to a finetuned retriever and a report of how much better it is.

Steps, each done once and redone only when what it depends on changes (`steps`): prepare the dataset, read the pages,
encode the test with the base model and with the text baseline, mine hard negatives, train, encode the test with the
finetuned model. The report is made anew every time. A run that was killed goes on where it was, training from its last
checkpoint.

    out/
      dataset/       pages, queries, splits             embeddings/   of the test, by model
      checkpoints/   of the training                    model/        the finetuned model
      report.html    report.json                        negatives.jsonl
"""

import logging
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from omnitune import __version__, io, runtime
from omnitune.documents.dataset import DocumentDataset, prepare
from omnitune.documents.dataset import load as open_dataset
from omnitune.documents.folder import find_documents, kind_at
from omnitune.documents.kinds import Kind
from omnitune.documents.queries.captions import caption_files
from omnitune.errors import InputError, MissingExtraError
from omnitune.finetune.baselines import has_text
from omnitune.finetune.choose import EMBEDDED, Choice, choose, loading, page_file_reader, text_embedder
from omnitune.finetune.encoded import Say, about, announce, base_inputs, encode_test
from omnitune.finetune.fit import Fitted
from omnitune.finetune.recipe import Recipe, load_recipe
from omnitune.finetune.rerank import RerankerSteps, judging
from omnitune.finetune.results import Story, tell
from omnitune.finetune.steps import Steps, open_run
from omnitune.finetune.train import epochs_of, train_on
from omnitune.finetune.writers import asking, make_writer
from omnitune.inputs.load import load
from omnitune.io import listing
from omnitune.model.dense import SentenceTransformer
from omnitune.modules.base import Reader, sampling_through
from omnitune.report.html import write_report
from omnitune.report.results import Left, LossPoint, Report

logger = logging.getLogger(__name__)

_PASSES = 3.5
"""Forwards that a training step is worth: one forward, a backward of two, and some replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run made and where it is."""

    report: Report
    html: Path
    json: Path
    model: Path
    dataset: Path


def finetune(
    folder: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    recipe: str | Path | Recipe | None = None,
    negatives: int | None = None,
    queries: str | None = None,
    query_model: str | None = None,
    reranker: bool = False,
    reranker_model: str | None = None,
    distill: bool = False,
    distill_loss: str | None = None,
    command: str = "",
    say: Say = logger.info,
) -> Outcome:
    """Finetune a retriever on a folder of documents and report how much better it finds their pages, or segments.

    Calling it again with the same `out` goes on where the last run stopped.

    Args:
        folder: Documents (PDF files and images), recordings or clips, in subfolders too.
        out: Where everything goes.
        model: A directory, a repository or `"embedded"`; None takes what fits the machine.
        recipe: A recipe, its file, or the name of one that comes with omnitune; None takes the one that fits the model.
        negatives: Hard negatives a query, 0 for none; None leaves it to the recipe.
        queries: Who writes training queries: "extractive", "endpoint" or "local"; None leaves it to the recipe.
        query_model: The model that writes them.
        reranker: Whether to train a reranker on the finetuned retriever's candidates, and to measure both together.
        reranker_model: What it starts from; None leaves it to the recipe.
        distill: Whether to train the retriever on the reranker's scores as well, and measure that; implies `reranker`.
        distill_loss: "margin_mse" or "kl"; None leaves it to the recipe.
        command: How the run was started, for the report.
        say: Told what is done and what it will cost, a line at a time.

    Raises:
        RecipeError: The recipe has an unknown key or value.
        DatasetError: The folder has too few documents, or too little text to make queries from.
        ResourceError: The disk is full, and what was made before is kept; or another process works in `out`.
    """
    folder, out = Path(folder), Path(out)
    _check_places(folder, out)
    given = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe)
    chosen = choose(model, given, kind_of_folder(folder, given))
    if negatives is not None:
        chosen = chosen.changed(negatives=replace(chosen.recipe.negatives, count=negatives))
    chosen = chosen.changed(reranker=judging(chosen.recipe.reranker, reranker_model, distill_loss))
    chosen = chosen.changed(queries=asking(chosen.recipe.queries, queries, query_model))
    say(f"Model: {chosen.shown}. {chosen.why}")
    say(f"Settings: {Path(chosen.recipe.source).name}")
    chosen.fetch()
    with open_run(out, task="finetuning") as steps:
        dataset = prepare_step(steps, folder, chosen.recipe, say)
        _read_and_encode_base(steps, chosen, dataset, say)
        _encode_text(steps, chosen.recipe, dataset, say)
        cost = _training_cost(steps, chosen.recipe, dataset)
        train_on(steps, chosen, dataset, say, cost=cost)
        _encode_trained(steps, chosen.recipe, dataset, say)
        if reranker or distill:
            _rerank(steps, chosen, dataset, say, distill=distill)
        return _report(steps, chosen, dataset, command or f"omnitune finetune {folder} --out {out}", say)


def kind_of_folder(folder: Path, recipe: Recipe | None) -> Kind:
    """What a folder holds, or what of it a recipe asks for.

    Raises:
        DatasetError: There is nothing in it, or several kinds, of which none was chosen.
    """
    return kind_at(find_documents(folder, recipe.prepare.get("kind", "auto") if recipe else "auto")[0])


def prepare_step(steps: Steps, folder: Path, recipe: Recipe, say: Say) -> DocumentDataset:
    """The dataset of a folder, made in `dataset/` unless it is there."""
    place = steps.folder / "dataset"
    documents = find_documents(folder, recipe.prepare.get("kind", "auto"))
    names = [path.relative_to(folder).as_posix() for path in documents]
    kind = kind_at(documents[0])
    inputs: dict[str, Any] = {
        "version": __version__,
        "documents": [listing(path) for path in documents],
        "names": names,
        "settings": recipe.prepare,
    }
    if kind.captioned:
        inputs["captions"] = [listing(path) for path in caption_files(folder, names)]
        inputs["read"] = _reads(kind, recipe)
    if recipe.queries.writer != "extractive":
        inputs["queries"] = recipe.settings()["queries"]

    def work(_: str) -> dict[str, int]:
        size = sum(path.stat().st_size for path in documents)
        words = kind.words
        say(f"Preparing {len(documents)} {words.document}s ({size / 1e6:.1f} MB): {words.page}s, splits, queries")
        made = prepared(folder, place, recipe, say)
        return {"training pairs": len(made.train), "test queries": len(made.queries), "pages": len(made.pages)}

    steps.run("prepare", inputs, work, makes=[place])
    dataset = open_dataset(place)
    say(dataset.summary())
    return dataset


def prepared(folder: Path, place: Path, recipe: Recipe, say: Say) -> DocumentDataset:
    """The dataset of a folder by a recipe, made in `place` or opened there."""
    kind = kind_of_folder(folder, recipe)
    reader = page_file_reader(kind) if _reads(kind, recipe) else None
    return prepare(folder, place, reader=reader, writer=make_writer(recipe.queries, say), **recipe.prepare)


def _reads(kind: Kind, recipe: Recipe) -> bool:
    """Whether pages without text are read; recordings, which takes their own length, only for a model that needs it."""
    return kind.own_text or recipe.model.get("model_name_or_path", EMBEDDED) == EMBEDDED


def _read_and_encode_base(steps: Steps, chosen: Choice, dataset: DocumentDataset, say: Say) -> None:
    """Read all pages where the model has a reader, then encode the test with the base model."""
    inputs = base_inputs(chosen, dataset)
    place = steps.folder / "embeddings" / "base"
    loaded = cache(chosen.load)
    steps.run("read", inputs, lambda _: read_pages(loaded(), dataset, say))
    steps.run(
        "base",
        inputs,
        lambda _: _encode(loaded(), dataset, place, chosen.recipe, say, "the base model"),
        makes=[place],
    )


def read_pages(model: SentenceTransformer, dataset: DocumentDataset, say: Say) -> None:
    """Let the model's readers read every page once; their readings are kept between runs."""
    modality, unit = dataset.kind.modality, dataset.kind.words.page
    readers = [module for module in model.modules() if isinstance(module, Reader) and modality in module.reads]
    pages = dataset.pages

    def read(items: list[Any]) -> None:
        for reader in readers:
            sampling = sampling_through([reader], modality)
            reader.read([load(item, modality, model.media_policy, sampling) for item in items])

    if not readers:
        return
    chunk = 4 * runtime.cores()
    announce(f"Reading {len(pages):,} {unit}s", pages, read, say, sample=chunk)
    with runtime.progress_bar(label=f"Reading {unit}s", total=len(pages), unit=unit) as bar:
        for start in range(0, len(pages), chunk):
            items = list(pages[start : start + chunk])
            read(items)
            bar.update(len(items))


def _encode(
    model: SentenceTransformer, dataset: DocumentDataset, place: Path, recipe: Recipe, say: Say, name: str
) -> None:
    size = recipe.evaluation.batch_size
    pages = dataset.pages
    what = f"Encoding {len(pages):,} {dataset.kind.words.page}s with {name}"
    announce(what, pages, lambda few: model.encode_document(few, batch_size=size, show_progress_bar=False), say)
    encode_test(model, dataset.test_queries, pages, place, batch_size=size, label=f"Encoding with {name}")


def _encode_text(steps: Steps, recipe: Recipe, dataset: DocumentDataset, say: Say) -> None:
    """Encode the text layer with MiniLM, for the baseline; where that cannot be, the report says why."""
    inputs = {"dataset": dataset.facts["fingerprint"], "wanted": "text" in recipe.evaluation.baselines}
    place = steps.folder / "embeddings" / "text"

    def work(_: str) -> dict[str, Any]:
        shutil.rmtree(place, ignore_errors=True)
        if "text" not in recipe.evaluation.baselines:
            return {"encoded": False, "note": ""}
        if not has_text(dataset.page_texts):
            words = dataset.kind.words
            note = f"The {words.document}s have no {words.text}, so there is no baseline on it."
            return {"encoded": False, "note": note}
        try:
            model = text_embedder()
        except MissingExtraError as error:
            say(f"No text baseline: {error}")
            note = "The text baseline is missing, because the packages of the extra `demo` are not installed."
            return {"encoded": False, "note": note}
        size = recipe.evaluation.batch_size
        encode_test(
            model,
            dataset.test_queries,
            dataset.page_texts,
            place,
            batch_size=size,
            label=f"Encoding the {dataset.kind.words.text}",
        )
        return {"encoded": True, "note": ""}

    steps.run("text baseline", inputs, work, makes=[place])


def _training_cost(steps: Steps, recipe: Recipe, dataset: DocumentDataset) -> str:
    """Estimate from the time that encoding took; the ranks of a distributed run share the pages."""
    each = steps.done["base"].seconds / max(1, len(dataset.pages))
    rows = len(dataset.train)
    pages = rows * (1 + recipe.negatives.count) / runtime.ranks()
    return f": about {about(_PASSES * each * pages * epochs_of(recipe, rows))}"


def _encode_trained(
    steps: Steps, recipe: Recipe, dataset: DocumentDataset, say: Say, *, distilled: bool = False
) -> None:
    step, name, folder = ("distill", "distilled", "distilled") if distilled else ("train", "finetuned", "model")
    place = steps.folder / "embeddings" / name
    inputs = {"train": steps.done[step].key, "batch_size": recipe.evaluation.batch_size}

    def work(_: str) -> None:
        model = SentenceTransformer(str(steps.folder / folder), **loading(recipe))
        _encode(model, dataset, place, recipe, say, f"the {name} model")

    steps.run("evaluate distilled" if distilled else "evaluate", inputs, work, makes=[place])


def _rerank(steps: Steps, chosen: Choice, dataset: DocumentDataset, say: Say, *, distill: bool) -> None:
    further = RerankerSteps(steps, chosen, dataset, say)
    further.rerank()
    if distill:
        further.distill()
        _encode_trained(steps, chosen.recipe, dataset, say, distilled=True)


def _report(steps: Steps, chosen: Choice, dataset: DocumentDataset, command: str, say: Say) -> Outcome:
    trained = steps.done["train"].result
    fitted = Fitted(
        losses=[LossPoint(**point) for point in trained["losses"]],
        facts=trained["facts"],
        bad_items=[Left(**item) for item in trained["bad_items"]],
    )
    say("Writing the report")
    story = Story(
        dataset=dataset,
        chosen=chosen,
        fitted=fitted,
        embeddings=steps.folder / "embeddings",
        encoded=[
            "base",
            "finetuned",
            *(["text"] if steps.done["text baseline"].result["encoded"] else []),
            *(["distilled"] if "distill" in steps.done else []),
        ],
        command=command,
        seconds={name: done.seconds for name, done in steps.done.items()},
        reranked=steps.done["reranker"].result if "reranker" in steps.done else "",
        distilled="distill" in steps.done,
        mined=steps.done["negatives"].result if "negatives" in steps.done else None,
        notes=[note for note in (steps.done["text baseline"].result["note"],) if note],
    )
    report = tell(story)
    html, data = write_report(report, steps.folder)
    return Outcome(report=report, html=html, json=data, model=steps.folder / "model", dataset=steps.folder / "dataset")


def _check_places(folder: Path, out: Path) -> None:
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise InputError(
            f"out: expected a folder outside the documents, got {str(out)!r} inside {str(folder)!r}; "
            "its page images would be taken for documents in the next run"
        )
    io.writable_folder(out)
