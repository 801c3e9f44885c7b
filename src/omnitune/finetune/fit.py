"""Training of the retriever: rows, loss and trainer from a recipe, resumed from whatever an earlier run left.

Checkpoints lie in a folder that carries the hash of all that determines the training, so a run never goes on from a
checkpoint of another one.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image, load_dataset, load_from_disk
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from omnitune import losses, runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.documents.dataset import load as open_dataset
from omnitune.errors import DatasetError, InputError, RecipeError
from omnitune.evaluation import BaseEvaluator, InformationRetrievalEvaluator
from omnitune.finetune.choose import ModelChoice, choose
from omnitune.finetune.measure import compare_on, default_dims
from omnitune.finetune.negatives import training_rows
from omnitune.finetune.recipe import DEFAULT_LOSS, Recipe, load_recipe
from omnitune.finetune.steps import Log, Steps, checkpoint_folder, open_run, remove_checkpoints
from omnitune.io import digest, write_json
from omnitune.model.dense import SentenceTransformer
from omnitune.places import hint
from omnitune.report.results import LossPoint, Skipped
from omnitune.training.arguments import SentenceTransformerTrainingArguments
from omnitune.training.base import BaseTrainer
from omnitune.training.trainer import SentenceTransformerTrainer
from omnitune.training.weights import last_checkpoint

logger = logging.getLogger(__name__)

LOGGED_SHARE = 0.02
"""Share of the steps between two points of the loss curve, where the recipe does not say."""


def train(
    dataset: str | Path | DocumentDataset | None,
    out: str | Path,
    *,
    model: str | None = None,
    recipe: str | Path | Recipe | None = None,
    epochs: float | None = None,
    allow: Collection[str] = (),
    log: Log = logger.info,
) -> Path:
    """Finetune on a prepared dataset, or on the one that the recipe names, and go on where an earlier run stopped.

    Where the recipe names evaluation rows, base and finetuned model are compared on them at every dimension, and
    `evaluation.json` has the numbers.

    Args:
        dataset: What `prepare` returned, or its folder; None takes the recipe's `dataset`.
        out: Folder of model and checkpoints.
        model: As for `finetune`.
        recipe: As for `finetune`.
        epochs: As for `finetune`.
        allow: As for `finetune`.
        log: As for `finetune`.

    Returns:
        The model's directory.

    Raises:
        InputError: There is neither a folder nor a recipe with a dataset.
        RecipeError: The recipe has a dataset of its own and wants negatives mined.
        ResourceError: The disk is full, or another process works in `out`.

    Example:
        >>> dataset = documents.prepare("manuals", "run/dataset")
        >>> train(dataset, "run", model="embedded", epochs=1)  # takes minutes  # doctest: +SKIP
        PosixPath('run/model')
    """
    given = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe, allow=allow)
    opened = dataset if isinstance(dataset, DocumentDataset | None) else open_dataset(dataset)
    chosen = choose(model, given) if opened is None else choose(model, given, opened.kind)
    chosen = chosen.changed(chosen.recipe.changed(training__num_train_epochs=epochs))
    log(f"Model: {chosen.shown}. {chosen.why}")
    out = Path(out)
    with open_run(out, task="training") as steps:
        if opened is not None:
            log(opened.summary())
            return train_on(steps, chosen, opened, log)
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
        place = train_step(steps, chosen, rows, key, log, evaluator=evaluator)
        if evaluator is not None:
            inputs = {"train": steps.done["train"].key, "evaluation": asdict(chosen.recipe.evaluation)}
            file = steps.folder / "evaluation.json"
            log(f"Comparing base and finetuned model on {len(evaluator.queries):,} queries")
            steps.run(
                "evaluate", inputs, lambda _: write_json(file, compare_on(evaluator, chosen, place)), makes=[file]
            )
        return place


def train_on(steps: Steps, chosen: ModelChoice, dataset: DocumentDataset, log: Log, *, cost: str = "") -> Path:
    """`train_step` on a prepared dataset and its hard negatives, evaluated on validation queries where it has some."""
    asked = dataset.validation
    evaluator = None
    if asked.queries:
        given = dict(zip(dataset.page_ids, dataset.items, strict=True))
        corpus = {page: given[page] for page in dataset.pages_of("validation")}
        relevant = {query: pages & corpus.keys() for query, pages in asked.relevant.items()}
        size = chosen.recipe.evaluation.batch_size
        evaluator = InformationRetrievalEvaluator(asked.queries, corpus, relevant, batch_size=size, name="validation")
    rows = training_rows(steps, chosen, dataset, log)
    return train_step(steps, chosen, rows, dataset.training_key, log, cost=cost, evaluator=evaluator)


def train_step(
    steps: Steps,
    chosen: ModelChoice,
    rows: Dataset,
    key: str,
    log: Log,
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
        log: Called with what it will cost.
        cost: End of that line.
        evaluator: What the recipe's `eval_strategy` runs.

    Returns:
        The model's directory.
    """
    inputs = {"dataset": key, "model": chosen.identity(), "settings": training_settings(chosen.recipe)}
    place = steps.folder / "model"

    def work(key: str) -> dict[str, Any]:
        checkpoints = checkpoint_folder(steps.folder, key, log)
        epochs = epochs_of(chosen.recipe, len(rows))
        log(f"Training on {len(rows):,} rows, {epochs:.3g} epoch{'' if epochs == 1 else 's'}{cost}")
        last = last_checkpoint(checkpoints)
        if last is not None:
            log(f"Going on from step {last.name.removeprefix('checkpoint-')}, where an earlier run stopped")
        model = chosen.load()
        fitted = fit(model, rows, chosen.recipe, checkpoints, evaluator=evaluator)
        model.save_pretrained(str(place))
        remove_checkpoints(checkpoints)
        return asdict(fitted)

    steps.run("train", inputs, work, makes=[place])
    return place


def epochs_of(recipe: Recipe, rows: int) -> float:
    """Passes of training over the rows."""
    arguments = recipe.training
    steps = arguments.get("max_steps", -1)
    if steps <= 0:
        return float(arguments.get("num_train_epochs", 3))
    batch = arguments.get("per_device_train_batch_size", 8) * arguments.get("gradient_accumulation_steps", 1)
    return float(steps * batch * runtime.ranks() / max(1, rows))


# --- one training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Results of a training besides the model.

    Attributes:
        losses: Loss curve, over all runs that it took.
        facts: Facts by name, for the report.
        bad_items: Pages that were skipped because they cannot be read.
    """

    losses: Sequence[LossPoint]
    facts: Mapping[str, str]
    bad_items: Sequence[Skipped]


def fit(
    model: SentenceTransformer,
    train_dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    evaluator: BaseEvaluator | None = None,
) -> Fitted:
    """Train `model` in place, from the last complete checkpoint in `folder` if there is one.

    Args:
        model: The base model; its weights change.
        train_dataset: Rows of query and page, and hard negatives where there are some.
        recipe: Settings.
        folder: Where checkpoints are kept.
        evaluator: What the recipe's `eval_strategy` runs.

    Raises:
        RecipeError: The training arguments do not fit together.
        DatasetError: A page cannot be read and the recipe says `on_bad_item: raise`, which is the default.
    """
    if recipe.lora is not None:
        model.add_adapter(runtime.require_peft().LoraConfig(**recipe.lora))
    loss = make_loss(model, recipe)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=training_arguments(recipe, folder, evaluated=evaluator is not None),
        train_dataset=train_dataset,
        loss=loss,
        evaluator=evaluator,
    )
    run_trainer(trainer, folder)

    inner = loss.loss if isinstance(loss, losses.MatryoshkaLoss) else loss
    name, batch = type(inner).__name__, trainer.args.train_batch_size
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    facts = {
        "loss": f"{name} inside MatryoshkaLoss" if inner is not loss else name,
        "batch": f"{batch} pairs",
        "steps": f"{trainer.state.global_step:,}",
        "trained parameters": f"{trained:,} of {sum(p.numel() for p in model.parameters()):,}",
    }
    if isinstance(loss, losses.MatryoshkaLoss):
        facts["dimensions"] = ", ".join(str(dim) for dim in loss.matryoshka_dims)
    negatives = loss.negatives_per_query(batch, len(train_dataset.column_names))
    if negatives is not None:
        facts["negatives a query"] = f"{negatives:,}"
    return Fitted(
        losses=[
            LossPoint(step=row["step"], epoch=round(row["epoch"], 4), loss=row["loss"])
            for row in trainer.state.log_history
            if "loss" in row
        ],
        facts=facts,
        bad_items=[
            Skipped(name=f"row {item.row}, column {item.column!r}", reason=item.reason)
            for item in trainer.skipped_items
        ],
    )


def make_loss(model: SentenceTransformer, recipe: Recipe) -> losses.Loss:
    """Make the recipe's loss, inside `MatryoshkaLoss` unless the recipe turns that off."""
    settings = dict(recipe.loss)
    name = settings.pop("name", DEFAULT_LOSS)
    loss: losses.Loss = getattr(losses, name)(model, **settings)
    if recipe.matryoshka is None:
        return loss
    nested = dict(recipe.matryoshka)
    dims = nested.pop("matryoshka_dims", None) or default_dims(model.get_embedding_dimension() or 0)
    return losses.MatryoshkaLoss(model, loss, dims, **nested)


def training_arguments(recipe: Recipe, folder: Path, *, evaluated: bool) -> SentenceTransformerTrainingArguments:
    """Make the recipe's training arguments.

    Raises:
        RecipeError: Two of them contradict each other, or one has a value that transformers refuses.
    """
    settings = {"report_to": "none", "logging_steps": LOGGED_SHARE, **recipe.training}
    if not evaluated:  # nothing to evaluate on: an evaluation per step would fail
        for name in ("eval_strategy", "eval_steps", "load_best_model_at_end"):
            settings.pop(name, None)
    try:
        return SentenceTransformerTrainingArguments(output_dir=str(folder), **settings)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{recipe.source}: training: {error}") from error


def run_trainer(trainer: BaseTrainer, folder: Path) -> None:
    """Train with one progress bar, from the last complete checkpoint in `folder` if there is one."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    last = last_checkpoint(folder)
    upstream = logging.getLogger("transformers.trainer")
    with runtime.progress_bar(label="Training", total=None, unit="step") as bar:
        trainer.add_callback(Bar(bar))
        upstream.addFilter(_no_false_alarm)
        try:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        finally:
            upstream.removeFilter(_no_false_alarm)


def _no_false_alarm(record: logging.LogRecord) -> bool:
    """Drop the warning that a resumed training has other `save_steps` than its checkpoint.

    transformers compares a share of the steps (0.25) with the steps that it stands for; the hash of the settings, after
    which the folder of a training's checkpoints is named, has already compared what counts.
    """
    return "do not match the ones in the `trainer_state.json`" not in record.getMessage()


class Bar(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Moves one progress bar, with the loss beside it, instead of printing a line a log."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin at the step that an earlier run came to."""
        del args, control, kwargs
        self.bar.total = state.max_steps
        self.bar.update(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move it."""
        del args, control, kwargs
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the loss."""
        del args, state, control
        if "loss" in (logs := kwargs["logs"]):
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")


_WITHOUT_EFFECT = (
    "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
    "disable_tqdm", "enable_jit_checkpoint", "hub_", "include_num_input_tokens_seen", "log", "project", "push_to_hub",
    "report_to", "run_name", "save_on_each_node", "save_total_limit", "skip_memory_metrics", "trackio",
)  # fmt: skip
"""Beginnings of the names of training arguments that do not change the weights."""


def training_settings(recipe: Recipe) -> dict[str, Any]:
    """Settings that decide the weights: a training is done anew only when one of them changes.

    The dataset has a hash of its own, so `prepare` and `queries` are not among them.
    """
    settings = recipe.settings()
    kept = {name: settings[name] for name in ("lora", "loss", "matryoshka", "negatives")}
    kept["training"] = {name: value for name, value in recipe.training.items() if not name.startswith(_WITHOUT_EFFECT)}
    return kept


# --- rows that a recipe names -----------------------------------------------------------------------------------------


def load_rows(settings: Mapping[str, Any], *, evaluation: bool = False) -> Dataset:
    """Load the rows that a recipe's `dataset` section names, on the hub or on disk.

    The first column holds queries, the second their pages, the others hard negatives.

    Args:
        settings: The section.
        evaluation: Take the evaluation rows, by `eval_name`, `eval_split` and `eval_columns`.

    Raises:
        DatasetError: It cannot be reached or read, a column that it names is not there, or there are no rows.
    """
    prefix = "eval_" if evaluation else ""
    split = settings.get(f"{prefix}split") or "train"
    place = Path(settings["path"])
    if (place / "dataset_info.json").is_file() or (place / "dataset_dict.json").is_file():
        loaded = load_from_disk(str(place))
        rows = loaded[split] if isinstance(loaded, DatasetDict) else loaded
    else:
        options = {"data_files": settings.get("data_files"), "revision": settings.get("revision"), "split": split}
        try:
            rows = load_dataset(settings["path"], settings.get(f"{prefix}name"), **options)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: it holds code, which never runs
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            beside = [str(one) for one in place.parent.iterdir()] if place.parent.is_dir() else []
            raise DatasetError(
                f"dataset.path: expected a folder, or a dataset of the hub that can be reached, with the split "
                f"{split!r}, got {settings['path']!r}: {said[:300]}{hint(str(place), beside)}"
            ) from error
    columns = settings.get(f"{prefix}columns") or rows.column_names
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise DatasetError(f"dataset.{prefix}columns: expected names among {rows.column_names}, got {missing}")
    if len(columns) < 2 or not len(rows):
        raise DatasetError(
            f"dataset: expected rows of query and page at least, got {len(rows)} rows of {list(columns)} "
            f"in {settings['path']!r}"
        )
    return rows.select_columns(list(columns))


def evaluator_of(rows: Dataset, *, batch_size: int) -> InformationRetrievalEvaluator:
    """Ask every query against all pages of the rows, hard negatives included.

    Args:
        rows: Query, page, hard negatives.
        batch_size: Items encoded at once.
    """
    query, page, *negatives = rows.column_names
    for name, feature in rows.features.items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, Image(decode=False))
    queries = dict(enumerate(rows[query]))
    relevant = {number: {(number, page)} for number in queries}
    return InformationRetrievalEvaluator(queries, _Cells(rows, [page, *negatives]), relevant, batch_size=batch_size)


class _Cells(Mapping[tuple[int, str], Any]):
    """Cells of some columns by (row, column), read when they are asked for; empty cells are left out."""

    def __init__(self, rows: Dataset, columns: Sequence[str]) -> None:
        self._rows = rows
        table = rows.with_format("arrow")[:]  # a view: no image is read to see which cells are empty
        self._keys = [
            (row, column)
            for column in columns
            for row, empty in enumerate(table.column(column).is_null().to_pylist())
            if not empty
        ]

    def __getitem__(self, key: tuple[int, str]) -> Any:
        return self._rows[key[0]][key[1]]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
