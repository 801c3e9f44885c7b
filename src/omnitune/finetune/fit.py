"""The training step of a run: loss and trainer from a recipe, resumed from whatever an earlier run left.

Checkpoints lie in a folder that carries the hash of all that determines the training, so a run never goes on from a
checkpoint of another one.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from omnitune import losses, runtime
from omnitune.errors import RecipeError, ResourceError
from omnitune.evaluation import BaseEvaluator
from omnitune.finetune.recipe import DEFAULT_LOSS, Recipe
from omnitune.model.dense import SentenceTransformer
from omnitune.report.results import Left, LossPoint
from omnitune.training.arguments import SentenceTransformerTrainingArguments
from omnitune.training.base import BaseTrainer
from omnitune.training.trainer import SentenceTransformerTrainer

logger = logging.getLogger(__name__)

LOGGED_SHARE = 0.02
"""Share of the steps between two points of the loss curve, where the recipe does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What training left besides the model.

    Attributes:
        losses: Loss curve, over all runs that it took.
        facts: Facts by name, for the report.
        bad_items: Pages that were skipped because they cannot be read.
    """

    losses: Sequence[LossPoint]
    facts: Mapping[str, str]
    bad_items: Sequence[Left]


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
        model.add_adapter(runtime.require("peft", extra="lora").LoraConfig(**recipe.lora))
    loss = make_loss(model, recipe)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=training_arguments(recipe, folder, evaluated=evaluator is not None),
        train_dataset=train_dataset,
        loss=loss,
        evaluator=evaluator,
    )
    run_trainer(trainer, folder)
    history = trainer.state.log_history
    return Fitted(
        losses=[
            LossPoint(step=row["step"], epoch=round(row["epoch"], 4), loss=row["loss"])
            for row in history
            if "loss" in row
        ],
        facts=_facts(model, loss, trainer),
        bad_items=[
            Left(name=f"row {item.row}, column {item.column!r}", reason=item.reason) for item in trainer.skipped_items
        ],
    )


def run_trainer(trainer: BaseTrainer, folder: Path) -> None:
    """Train with one progress bar, from the last complete checkpoint in `folder` if there is one."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Bar())
    last = last_checkpoint(folder)
    if last is not None:
        logger.info("Training goes on from %s", last)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))


def make_loss(model: SentenceTransformer, recipe: Recipe) -> losses.Loss:
    """The recipe's loss, inside `MatryoshkaLoss` unless the recipe turns that off."""
    settings = dict(recipe.loss)
    name = settings.pop("name", DEFAULT_LOSS)
    loss: losses.Loss = getattr(losses, name)(model, **settings)
    if recipe.matryoshka is None:
        return loss
    nested = dict(recipe.matryoshka)
    dims = nested.pop("matryoshka_dims", None) or default_dims(width_of(model))
    return losses.MatryoshkaLoss(model, loss, dims, **nested)


def default_dims(width: int) -> list[int]:
    """A model's own dimension and the powers of two below it, down to 64, or to an eighth of a small model's."""
    lowest = min(64, max(8, width // 8))
    powers = [1 << n for n in range(width.bit_length(), 2, -1)]
    return [width, *(power for power in powers if lowest <= power < width)]


def measured_dims(width: int, recipe: Recipe) -> list[int]:
    """Dimensions to evaluate of a model of `width`, largest first: the recipe's, else the trained; always the full."""
    trained = None if recipe.matryoshka is None else recipe.matryoshka.get("matryoshka_dims")
    dims = recipe.evaluation.dims or (default_dims(width) if recipe.matryoshka is not None and not trained else trained)
    return sorted({width, *(dims or [])} - {dim for dim in dims or [] if dim > width}, reverse=True)


def training_arguments(recipe: Recipe, folder: Path, *, evaluated: bool) -> SentenceTransformerTrainingArguments:
    """The recipe's training arguments.

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


def last_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint that was written to its end, or None; half-written ones are removed.

    Raises:
        ResourceError: One cannot be read, though it may be whole; it is left where it is.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    for path in reversed(found):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))  # written last
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                raise ResourceError(
                    f"{path}: expected a checkpoint that can be read, got: {error.strerror}; make it readable, or "
                    "delete it to begin the training anew"
                ) from error
            half = True
        except ValueError:  # cut JSON, or no text
            half = True
        else:
            half = False
        if half:
            logger.warning("%s was not written to its end and is removed", path)
            shutil.rmtree(path)
            continue
        return path
    return None


def width_of(model: SentenceTransformer) -> int:
    """Dimensions of a model's embeddings."""
    width = model.get_embedding_dimension()
    assert width is not None, "a dense model knows its dimension"
    return width


def _facts(model: SentenceTransformer, loss: losses.Loss, trainer: SentenceTransformerTrainer) -> dict[str, str]:
    inner = loss.loss if isinstance(loss, losses.MatryoshkaLoss) else loss
    name = type(inner).__name__
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in model.parameters())
    batch = trainer.args.train_batch_size
    assert trainer.train_dataset is not None
    negatives = loss.negatives_per_query(batch, len(trainer.train_dataset.column_names))
    facts = {
        "loss": f"{name} inside MatryoshkaLoss" if inner is not loss else name,
        "batch": f"{batch} pairs",
        "steps": f"{trainer.state.global_step:,}",
        "trained parameters": f"{trained:,} of {everything:,}",
    }
    if isinstance(loss, losses.MatryoshkaLoss):
        facts["dimensions"] = ", ".join(str(dim) for dim in loss.matryoshka_dims)
    if negatives is not None:
        facts["negatives a query"] = f"{negatives:,}"
    return facts


class Bar(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """One progress bar with the loss beside it, instead of a line a log."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open it, at the step an earlier run came to."""
        del args, control, kwargs
        self._context = runtime.progress_bar(label="Training", total=state.max_steps, unit="step")
        self._bar = self._context.__enter__()
        self._bar.update(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move it."""
        del args, control, kwargs
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Show the loss."""
        del args, state, control
        if "loss" in (logs := kwargs["logs"]):
            self._bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close it."""
        del args, state, control, kwargs
        self._context.__exit__(None, None, None)
