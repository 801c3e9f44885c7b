"""The training step: one model on one dataset, resumed where it stopped, its directory written at the end."""

import errno
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset

from omnitune import __version__
from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.dataset import load as open_dataset
from omnitune.errors import InputError, RecipeError, ResourceError
from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.finetune.choose import Choice, choose
from omnitune.finetune.encoded import Say
from omnitune.finetune.evaluate import compare_on
from omnitune.finetune.fit import fit, last_checkpoint
from omnitune.finetune.hub_dataset import evaluator_of, load_rows
from omnitune.finetune.negatives import training_rows
from omnitune.finetune.recipe import Recipe, load_recipe
from omnitune.finetune.steps import Steps
from omnitune.io import digest, writable_folder, write_json

logger = logging.getLogger(__name__)


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
        RecipeError: The recipe has a dataset of its own and wants negatives mined.
    """
    opened = None if dataset is None else open_dataset(dataset)
    given = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe)
    chosen = choose(model, given) if opened is None else choose(model, given, opened.kind)
    say(f"Model: {chosen.shown}. {chosen.why}")
    steps = Steps(writable_folder(Path(out)))
    with disk_errors(Path(out)):
        if opened is not None:
            say(opened.summary())
            return train_on(steps, chosen, opened, say)
        named = chosen.recipe.dataset
        if named is None:
            raise InputError(
                "dataset: expected a folder that `omnitune prepare` made, or a recipe with a section 'dataset' such as "
                "vdr-qwen3vl-2b, got neither"
            )
        if chosen.recipe.negatives.count:
            raise RecipeError(
                f"{chosen.recipe.source}: negatives.count: expected 0 with a recipe's own dataset, whose columns after "
                f"the second are its negatives, got {chosen.recipe.negatives.count}"
            )
        rows, evaluator = load_rows(named), None
        if named.get("eval_name") or named.get("eval_split"):
            held_out = load_rows(named, evaluation=True)
            evaluator = evaluator_of(held_out, batch_size=chosen.recipe.evaluation.batch_size)
        key = digest([named, rows._fingerprint])
        place = train_step(steps, chosen, rows, key, say, evaluator=evaluator)
        if evaluator is not None:
            inputs = {"train": steps.done["train"].key, "evaluation": asdict(chosen.recipe.evaluation)}
            file = steps.folder / "evaluation.json"
            say(f"Comparing base and finetuned model on {len(evaluator.queries):,} queries")
            steps.run(
                "evaluate", inputs, lambda _: write_json(file, compare_on(evaluator, chosen, place)), makes=[file]
            )
        return place


def train_on(steps: Steps, chosen: Choice, dataset: DocumentDataset, say: Say, *, cost: str = "") -> Path:
    """`train_step` on a prepared dataset and its hard negatives, evaluated on validation queries where it has some."""
    asked = dataset.validation
    evaluator = None
    if asked.queries:
        corpus = {page: dataset.corpus[page] for page in dataset.pages_of("validation")}
        relevant = {query: pages & corpus.keys() for query, pages in asked.relevant.items()}
        size = chosen.recipe.evaluation.batch_size
        evaluator = InformationRetrievalEvaluator(asked.queries, corpus, relevant, batch_size=size, name="validation")
    rows = training_rows(steps, chosen, dataset, say)
    return train_step(steps, chosen, rows, dataset.facts["fingerprint"], say, cost=cost, evaluator=evaluator)


def epochs_of(recipe: Recipe, rows: int) -> float:
    """How often training sees every row."""
    arguments = recipe.training
    steps = arguments.get("max_steps", -1)
    if steps <= 0:
        return float(arguments.get("num_train_epochs", 3))
    batch = arguments.get("per_device_train_batch_size", 8) * arguments.get("gradient_accumulation_steps", 1)
    return float(steps * batch / max(1, rows))


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
    later = ("evaluation", "reranker")
    settings = {name: value for name, value in chosen.recipe.settings().items() if name not in later}
    inputs = {"version": __version__, "dataset": key, "model": chosen.identity(), "settings": settings}
    place = steps.folder / "model"

    def work(key: str) -> dict[str, Any]:
        checkpoints = steps.folder / "checkpoints"
        for other in checkpoints.glob("*"):
            if other.name != key:
                shutil.rmtree(other)
        epochs = epochs_of(chosen.recipe, len(rows))
        say(f"Training on {len(rows):,} rows, {epochs:.3g} epoch{'' if epochs == 1 else 's'}{cost}")
        last = last_checkpoint(checkpoints / key)
        if last is not None:
            say(f"Going on from step {last.name.removeprefix('checkpoint-')}, where an earlier run stopped")
        model = chosen.load()
        fitted = fit(model, rows, chosen.recipe, checkpoints / key, evaluator=evaluator)
        model.save_pretrained(str(place))
        shutil.rmtree(checkpoints)
        return asdict(fitted)

    steps.run("train", inputs, work, makes=[place / "modules.json"])
    return place


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk, wherever it is noticed, into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = shutil.disk_usage(out).free
        raise ResourceError(
            f"{out}: the disk is full ({free / 1e6:.0f} MB free); what was made before is kept: "
            "free some space and run the same command again"
        ) from error
