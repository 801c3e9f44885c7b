"""From a folder of documents to a finetuned retriever and a report of how much better it is.

Steps, each done once and redone only when what it depends on changes (`steps`): prepare the dataset, read the pages,
encode the test with the base model and with the text baseline, train, encode the test with the finetuned model. The
report is made anew every time. A run that was killed goes on where it was, training from its last checkpoint.

    out/
      dataset/       pages, queries, splits             embeddings/   of the test, by model
      checkpoints/   of the training                    model/        the finetuned model
      report.html    report.json
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from omnitune import __version__, runtime
from omnitune.documents.baselines import has_text
from omnitune.documents.dataset import DocumentDataset, prepare
from omnitune.documents.dataset import load as open_dataset
from omnitune.documents.default_model import Choice, choose, loading, text_embedder
from omnitune.documents.encoded import Say, about, announce, encode_test
from omnitune.documents.evaluation import compare_on
from omnitune.documents.fit import Fitted, fit
from omnitune.documents.folder import find_documents
from omnitune.documents.hub_dataset import evaluator_of, load_rows
from omnitune.documents.recipe import Recipe, load_recipe
from omnitune.documents.steps import Steps, digest, listing
from omnitune.documents.story import Story, tell
from omnitune.errors import InputError, MissingExtraError, ResourceError
from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.inputs.load import load
from omnitune.model.encoders import SentenceTransformer
from omnitune.modules.base import Reader
from omnitune.report.html import write_report
from omnitune.report.records import write_json
from omnitune.report.results import Left, LossPoint, Report

logger = logging.getLogger(__name__)

_DISK_FULL = 28
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
    command: str = "",
    say: Say = logger.info,
) -> Outcome:
    """Finetune a retriever on a folder of documents and report how much better it finds their pages.

    Calling it again with the same `out` goes on where the last run stopped.

    Args:
        folder: Documents: PDF files and images, in subfolders too.
        out: Where everything goes.
        model: A directory, a repository or `"embedded"`; None takes what fits the machine.
        recipe: A recipe, its file, or the name of one that comes with omnitune; None takes the one that fits the model.
        command: How the run was started, for the report.
        say: Told what is done and what it will cost, a line at a time.

    Raises:
        RecipeError: The recipe has an unknown key or value.
        DatasetError: The folder has too few documents, or too little text to make queries from.
        ResourceError: The disk is full; what was made before is kept.
    """
    folder, out = Path(folder), Path(out)
    _check_places(folder, out)
    chosen = choose(model, recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe))
    say(f"Model: {chosen.shown}. {chosen.why}")
    say(f"Settings: {Path(chosen.recipe.source).name}")
    steps = Steps(out)
    with _disk_errors(out):
        dataset = prepare_step(steps, folder, chosen.recipe, say)
        _read_and_encode_base(steps, chosen, dataset, say)
        _encode_text(steps, chosen.recipe, dataset, say)
        cost = _training_cost(steps, chosen.recipe, dataset)
        train_step(steps, chosen, dataset.train, steps.done["prepare"].key, say, cost=cost)
        _encode_finetuned(steps, chosen.recipe, dataset, say)
        return _report(steps, chosen, dataset, command or f"omnitune finetune {folder} --out {out}", say)


def prepare_step(steps: Steps, folder: Path, recipe: Recipe, say: Say) -> DocumentDataset:
    """The dataset of a folder, made in `dataset/` unless it is there."""
    place = steps.folder / "dataset"
    documents = find_documents(folder)
    inputs = {
        "version": __version__,
        "documents": [listing(path) for path in documents],
        "names": [path.relative_to(folder).as_posix() for path in documents],
        "settings": recipe.prepare,
    }
    if steps.pending("prepare", inputs):
        size = sum(path.stat().st_size for path in documents)
        say(f"Preparing {len(documents)} documents ({size / 1e6:.1f} MB): pages, splits, queries")
    steps.run("prepare", inputs, lambda _: _made(prepare(folder, place, **recipe.prepare)), makes=[place])
    dataset = open_dataset(place)
    say(dataset.summary())
    return dataset


def _made(dataset: DocumentDataset) -> dict[str, int]:
    return {"training pairs": len(dataset.train), "test queries": len(dataset.queries), "pages": len(dataset.pages)}


def _read_and_encode_base(steps: Steps, chosen: Choice, dataset: DocumentDataset, say: Say) -> None:
    """Read all pages where the model has a reader, then encode the test with the base model."""
    inputs = {
        "dataset": steps.done["prepare"].key,
        "model": chosen.identity(),
        "batch_size": chosen.recipe.evaluation.batch_size,
    }
    place = steps.folder / "embeddings" / "base"
    if not steps.pending("base", inputs) and (place / "pages.npy").exists():
        steps.run("read", inputs, lambda _: None)
        steps.run("base", inputs, lambda _: None, makes=[place / "pages.npy"])
        return
    model = chosen.load()
    steps.run("read", inputs, lambda _: read_pages(model, dataset, say))
    steps.run("base", inputs, lambda _: _encode(model, dataset, place, chosen.recipe, say, "the base model"))


def read_pages(model: SentenceTransformer, dataset: DocumentDataset, say: Say) -> None:
    """Let the model's readers read every page once; their readings are kept between runs."""
    readers = [module for module in model.modules() if isinstance(module, Reader) and "image" in module.reads]
    pages = dataset.pages

    def read(items: list[Any]) -> None:
        loaded = [load(item, "image", model.media_policy) for item in items]
        for reader in readers:
            reader.read(loaded)

    if not readers:
        return
    chunk = 4 * runtime.cores()
    announce(f"Reading {len(pages):,} pages", pages, read, say, sample=chunk)
    with runtime.progress_bar(label="Reading pages", total=len(pages), unit="page") as bar:
        for start in range(0, len(pages), chunk):
            items = list(pages[start : start + chunk])
            read(items)
            bar.update(len(items))


def _encode(
    model: SentenceTransformer, dataset: DocumentDataset, place: Path, recipe: Recipe, say: Say, name: str
) -> None:
    size = recipe.evaluation.batch_size
    pages = dataset.pages
    what = f"Encoding {len(pages):,} pages with {name}"
    announce(what, pages, lambda few: model.encode_document(few, batch_size=size, show_progress_bar=False), say)
    encode_test(model, dataset.test_queries, pages, place, batch_size=size, label=f"Encoding with {name}")


def _encode_text(steps: Steps, recipe: Recipe, dataset: DocumentDataset, say: Say) -> None:
    """Encode the text layer with MiniLM, for the baseline; where that cannot be, the report says why."""
    inputs = {"dataset": steps.done["prepare"].key, "wanted": "text" in recipe.evaluation.baselines}

    def work(_: str) -> str:
        if "text" not in recipe.evaluation.baselines:
            return ""
        if not has_text(dataset.page_texts):
            return "The documents have no text layer, so there is no baseline on it."
        try:
            model = text_embedder()
        except MissingExtraError as error:
            say(f"No text baseline: {error}")
            return "The text baseline is missing, because the packages of the extra `demo` are not installed."
        place = steps.folder / "embeddings" / "text"
        size = recipe.evaluation.batch_size
        encode_test(
            model, dataset.test_queries, dataset.page_texts, place, batch_size=size, label="Encoding the text layer"
        )
        return ""

    steps.run("text baseline", inputs, work)


def train_step(
    steps: Steps,
    chosen: Choice,
    rows: Dataset,
    key: str,
    say: Say,
    *,
    cost: str = "",
    evaluator: InformationRetrievalEvaluator | None = None,
) -> Path:
    """Train, or go on with training, and write `model/`.

    Args:
        steps: Of the run.
        chosen: Model and settings.
        rows: Query, page, and hard negatives where there are some.
        key: Hash of the dataset.
        say: Told what it will cost.
        cost: What to add to that line.
        evaluator: What the recipe's `eval_strategy` runs.

    Returns:
        The model's directory.
    """
    settings = {name: value for name, value in chosen.recipe.settings().items() if name != "evaluation"}
    inputs = {"version": __version__, "dataset": key, "model": chosen.identity(), "settings": settings}
    place = steps.folder / "model"

    def work(key: str) -> dict[str, Any]:
        checkpoints = steps.folder / "checkpoints"
        for other in checkpoints.glob("*"):
            if other.name != key:
                shutil.rmtree(other)
        epochs = chosen.recipe.training.get("num_train_epochs", 3)
        say(f"Training on {len(rows):,} rows, {epochs:g} epoch{'' if epochs == 1 else 's'}{cost}")
        model = chosen.load()
        fitted = fit(model, rows, chosen.recipe, checkpoints / key, evaluator=evaluator)
        model.save_pretrained(str(place))
        shutil.rmtree(checkpoints)
        return asdict(fitted)

    steps.run("train", inputs, work, makes=[place / "modules.json"])
    return place


def train(
    dataset: str | Path | None,
    out: str | Path,
    *,
    model: str | None = None,
    recipe: str | Path | Recipe | None = None,
    say: Say = logger.info,
) -> Path:
    """Finetune on a prepared dataset, or on the one that the recipe names, and go on where an earlier run stopped.

    Where the recipe names evaluation rows, base and finetuned model are compared on them at every dimension, and
    `evaluation.json` has the numbers.

    Args:
        dataset: Folder that `prepare` made; None takes the recipe's `dataset`.
        out: Where model and checkpoints go.
        model: As for `finetune`.
        recipe: As for `finetune`.
        say: As for `finetune`.

    Returns:
        The model's directory.

    Raises:
        InputError: There is neither a folder nor a recipe with a dataset.
    """
    chosen = choose(model, recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe))
    say(f"Model: {chosen.shown}. {chosen.why}")
    steps = Steps(Path(out))
    with _disk_errors(Path(out)):
        if dataset is not None:
            opened = open_dataset(dataset)
            say(opened.summary())
            return train_step(steps, chosen, opened.train, opened.facts["fingerprint"], say)
        named = chosen.recipe.dataset
        if named is None:
            raise InputError(
                "dataset: expected a folder that `omnitune prepare` made, or a recipe with a section 'dataset' such as "
                "vdr-qwen3vl-2b, got neither"
            )
        rows, evaluator = load_rows(named), None
        if named.get("eval_name") or named.get("eval_split"):
            held_out = load_rows(named, evaluation=True)
            evaluator = evaluator_of(held_out, batch_size=chosen.recipe.evaluation.batch_size)
        key = digest([named, rows._fingerprint])
        place = train_step(steps, chosen, rows, key, say, evaluator=evaluator)
        if evaluator is not None:
            write_json(steps.folder / "evaluation.json", compare_on(evaluator, chosen, place))
        return place


def _training_cost(steps: Steps, recipe: Recipe, dataset: DocumentDataset) -> str:
    each = steps.done["base"].seconds / max(1, len(dataset.pages))
    epochs = recipe.training.get("num_train_epochs", 3)
    return f": about {about(_PASSES * each * len(dataset.train) * epochs)}"


def _encode_finetuned(steps: Steps, recipe: Recipe, dataset: DocumentDataset, say: Say) -> None:
    place = steps.folder / "embeddings" / "finetuned"
    inputs = {"train": steps.done["train"].key, "batch_size": recipe.evaluation.batch_size}

    def work(_: str) -> None:
        model = SentenceTransformer(str(steps.folder / "model"), **loading(recipe))
        _encode(model, dataset, place, recipe, say, "the finetuned model")

    steps.run("evaluate", inputs, work, makes=[place / "pages.npy"])


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
        command=command,
        seconds={name: done.seconds for name, done in steps.done.items()},
        notes=[note for note in (steps.done["text baseline"].result,) if note],
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
    if out.is_file():
        raise InputError(f"out: expected a folder, got the file {str(out)!r}")


@contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk, wherever it is noticed, into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno != _DISK_FULL:
            raise
        free = shutil.disk_usage(out).free
        raise ResourceError(
            f"{out}: the disk is full ({free / 1e6:.0f} MB free); what was made before is kept: "
            "free some space and run the same command again"
        ) from error
