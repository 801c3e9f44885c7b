"""The training step: one model on one dataset, resumed where it stopped, its directory written at the end."""

import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset

from omnitune import runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.dataset import load as open_dataset
from omnitune.errors import InputError, RecipeError
from omnitune.evaluation import InformationRetrievalEvaluator
from omnitune.finetune.choose import Choice, choose
from omnitune.finetune.encoded import Say
from omnitune.finetune.evaluate import compare_on
from omnitune.finetune.fit import fit, last_checkpoint
from omnitune.finetune.hub_dataset import evaluator_of, load_rows
from omnitune.finetune.negatives import training_rows
from omnitune.finetune.recipe import Recipe, load_recipe
from omnitune.finetune.steps import Steps, open_run
from omnitune.io import digest, write_json

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
        ResourceError: The disk is full, or another process works in `out`.
        RecipeError: The recipe has a dataset of its own and wants negatives mined.
    """
    opened = None if dataset is None else open_dataset(dataset)
    given = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe)
    chosen = choose(model, given) if opened is None else choose(model, given, opened.kind)
    say(f"Model: {chosen.shown}. {chosen.why}")
    out = Path(out)
    with open_run(out, task="training") as steps:
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
    return float(steps * batch * runtime.ranks() / max(1, rows))


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
    inputs = {"dataset": key, "model": chosen.identity(), "settings": training_settings(chosen.recipe)}
    place = steps.folder / "model"

    def work(key: str) -> dict[str, Any]:
        checkpoints = checkpoint_folder(steps.folder, key, say)
        epochs = epochs_of(chosen.recipe, len(rows))
        say(f"Training on {len(rows):,} rows, {epochs:.3g} epoch{'' if epochs == 1 else 's'}{cost}")
        last = last_checkpoint(checkpoints)
        if last is not None:
            say(f"Going on from step {last.name.removeprefix('checkpoint-')}, where an earlier run stopped")
        model = chosen.load()
        fitted = fit(model, rows, chosen.recipe, checkpoints, evaluator=evaluator)
        model.save_pretrained(str(place))
        remove_checkpoints(checkpoints)
        return asdict(fitted)

    steps.run("train", inputs, work, makes=[place])
    return place


def training_settings(recipe: Recipe) -> dict[str, Any]:
    """Settings that decide what is trained: a training is only done anew, or begun anew, when one of them changes.

    The dataset has a hash of its own, so `prepare` and `queries` are not among them; nor is what only decides how a
    training is told, saved or fed.
    """
    settings = recipe.settings()
    kept = {name: settings[name] for name in ("lora", "loss", "matryoshka", "negatives")}
    kept["training"] = {name: value for name, value in recipe.training.items() if not name.startswith(_WITHOUT_EFFECT)}
    return kept


_WITHOUT_EFFECT = (
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "disable_tqdm", "hub_", "include_num_input_tokens_seen", "log", "project", "push_to_hub", "report_to", "run_name",
    "save_on_each_node", "save_total_limit", "skip_memory_metrics", "trackio", "enable_jit_checkpoint",
)  # fmt: skip
"""Beginnings of the names of training arguments that do not change the weights."""


def checkpoint_folder(out: Path, key: str, say: Say) -> Path:
    """Folder of a training's checkpoints, under the hash of its inputs; those of other trainings are left alone."""
    folder = out / "checkpoints" / key
    folder.mkdir(parents=True, exist_ok=True)
    for other in sorted(folder.parent.iterdir()):
        size = sum(path.stat().st_size for path in other.rglob("*") if path.is_file())
        if other != folder and size:
            say(f"{other}: checkpoints of a training with other settings ({size / 1e6:,.0f} MB) are kept; "
                "delete them when you no longer need them")  # fmt: skip
    return folder


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a training that is finished, and `checkpoints/` where no other training has some."""
    if runtime.rank() != 0:
        return
    shutil.rmtree(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
