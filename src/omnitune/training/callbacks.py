"""Callbacks of a run: gradients cleared and watched, facts for the card, the opening lines, weights that rise."""

import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from omnitune.errors import InputError
from omnitune.losses.sparse import SpladeLoss
from omnitune.report.card import SentenceTransformerModelCardData
from omnitune.report.facts import TrainingFacts

logger = logging.getLogger(__name__)

UNTOLD = {
    "accelerator_config", "disable_tqdm", "do_eval", "do_predict", "do_train", "eval_delay", "eval_steps",
    "eval_strategy", "greater_is_better", "hub_token", "logging_dir", "logging_first_step", "logging_steps",
    "logging_strategy", "metric_for_best_model", "output_dir", "project", "push_to_hub_token", "report_to", "run_name",
    "save_steps", "save_strategy", "save_total_limit", "use_cpu",
}  # fmt: skip
"""Arguments that say where and how often, and not how a model was trained."""


class ZeroGradients(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Clears all gradients after a step; the trainer itself clears the model's and would let a loss's own pile up."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start from no gradients."""
        del args, state, control
        kwargs["optimizer"].zero_grad()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Clear what the step used."""
        del args, state, control
        kwargs["optimizer"].zero_grad()


class FiniteGradients(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Stops a run whose gradients are not numbers: every weight is lost then, though the logged loss may say 0.

    The trainer hands over the norm of every step before the optimizer uses it. On the CPU the run stops there and then.
    Elsewhere reading a number makes the host wait, so it is copied in the background and read one step later, or before
    anything is logged, evaluated or saved.
    """

    def __init__(self) -> None:
        self._norm: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._step = 0

    def see(self, norm: Tensor | float, step: int, args: TrainingArguments) -> None:
        """Take the gradient norm of a step.

        Args:
            norm: A scalar.
            step: Number of the step, from 1.
            args: Of the run.

        Raises:
            InputError: This norm, or the one before, is not a number.
        """
        self.settle(args)
        if args.fp16:  # a loss scaler leaves such steps out by itself
            return
        norm = torch.as_tensor(norm).detach()
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self._step = step
        self._norm = norm.to("cpu", non_blocking=True)
        if norm.device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch gives it no types
            self._copied.record()
        else:
            self.settle(args)

    def settle(self, args: TrainingArguments) -> None:
        """Read what was copied.

        Raises:
            InputError: It is not a number.
        """
        if self._norm is None:
            return
        if self._copied is not None:
            self._copied.synchronize()
        value, self._norm, self._copied = float(self._norm), None, None
        if not math.isfinite(value):
            raise InputError(
                f"learning_rate={args.learning_rate}, loss: expected gradients that are numbers, got {value} at step "
                f"{self._step}, and with them every weight is lost; lower the learning rate, or look for labels and "
                "inputs whose loss is not a number, and go on from a checkpoint before"
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Read it before anything is made of the weights."""
        del state, kwargs
        if control.should_log or control.should_evaluate or control.should_save:
            self.settle(args)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read it before anything is made of the weights."""
        del state, control, kwargs
        self.settle(args)


class CardRecorder(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Keeps what the model card tells of a run.

    Args:
        data: The model's card data; a run writes into its `training`.
        describe: Facts on datasets and losses, asked for when a run begins.
    """

    def __init__(
        self, data: Callable[[], SentenceTransformerModelCardData], describe: Callable[[], TrainingFacts]
    ) -> None:
        self._data = data
        self._describe = describe
        self._start = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Describe the run."""
        del state, control, kwargs
        self._start = time.monotonic()
        facts = self._describe()
        facts.arguments = changed_arguments(args)
        self._data().training = facts

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the training loss."""
        del args, control
        if "loss" in (logs := kwargs["logs"]):
            self._record(state, {"Training Loss": float(logs["loss"])})

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the evaluation losses; evaluators hand their metrics to the card themselves."""
        del args, control
        losses = {key: float(value) for key, value in kwargs["metrics"].items() if key.endswith("_loss")}
        self._record(
            state,
            {("Validation Loss" if key == "eval_loss" else key.removeprefix("eval_")): v for key, v in losses.items()},
        )

    def _record(self, state: TrainerState, values: dict[str, float]) -> None:
        facts = self._data().training
        if facts is not None and values:
            facts.record(state.global_step, state.epoch, values)
            facts.seconds = time.monotonic() - self._start


class OpeningLines(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Logs lines when training begins, shows them above the progress bar, and keeps what was left out in the state.

    Args:
        lines: Lines to show.
        skipped: Items whose rows were left out, for `trainer_state.json`.
    """

    def __init__(self, lines: Callable[[], Sequence[str]], skipped: Callable[[], Sequence[str]]) -> None:
        self._lines = lines
        self._skipped = skipped

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log and show them on the main process."""
        del control, kwargs
        if skipped := list(self._skipped()):
            state.log_history.append({"step": state.global_step, "skipped_items": skipped})
        if not state.is_world_process_zero:
            return
        for line in self._lines():
            logger.info(line)
            if not args.disable_tqdm:
                tqdm.write(line, file=sys.stderr)


def changed_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Arguments that differ from their defaults and shape the model, as plain values."""
    values = args.to_dict()
    changed = {}
    for field in fields(args):
        if field.name in UNTOLD or field.name not in values:
            continue
        default = field.default if field.default is not MISSING else None
        if field.default_factory is not MISSING:
            default = field.default_factory()
        plain = getattr(default, "value", default)
        if values[field.name] != plain and (values[field.name] or plain):
            changed[field.name] = values[field.name]
    return changed


class SchedulerType(Enum):
    """Ways in which the weights rise."""

    LINEAR = "linear"
    QUADRATIC = "quadratic"


class SpladeRegularizerWeightSchedulerCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Lets the regularizers' weights of a `SpladeLoss` rise from zero in the first part of the training steps.

    What they rise to is what the loss was given, also where an interrupted run left its weights on the way; the share
    follows from the number of the step, also right after a run is resumed.

    Args:
        loss: The loss.
        scheduler_type: "quadratic" or "linear".
        warmup_ratio: Share of all steps in which they rise.

    Raises:
        InputError: `loss` is no `SpladeLoss`, or an argument cannot be.

    Source:
        Paria et al. 2020, section 4.1 (arXiv:2004.05665).

    Example:
        >>> from omnitune.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
        >>> loss = SpladeLoss(sparse, SparseMultipleNegativesRankingLoss(sparse), 3e-5, 5e-5)
        >>> schedule = SpladeRegularizerWeightSchedulerCallback(loss, "linear", warmup_ratio=0.5)
        >>> schedule.share(step=25, total=100)
        0.5
        >>> rows = Dataset.from_dict({"query": ["How hot is the oven?", "What is greased?"], "answer": pages[::-1]})
        >>> trainer = SparseEncoderTrainer(sparse, train_dataset=rows, loss=loss, callbacks=[schedule])
    """

    def __init__(
        self,
        loss: SpladeLoss,
        scheduler_type: str | SchedulerType = SchedulerType.QUADRATIC,
        warmup_ratio: float = 1 / 3,
    ) -> None:
        if not isinstance(loss, SpladeLoss):
            raise InputError(f"loss: expected a SpladeLoss, got {type(loss).__name__}")
        kinds = [kind.value for kind in SchedulerType]
        name = scheduler_type.value if isinstance(scheduler_type, SchedulerType) else str(scheduler_type).lower()
        if name not in kinds:
            raise InputError(f"scheduler_type: expected one of {kinds}, got {scheduler_type!r}")
        if not 0 < warmup_ratio <= 1:
            raise InputError(f"warmup_ratio: expected a share in (0, 1], got {warmup_ratio}")
        self.loss = loss
        self.scheduler_type = SchedulerType(name)
        self.warmup_ratio = warmup_ratio

    @property
    def max_document_regularizer_weight(self) -> float:
        """Highest weight of the documents' regularizer."""
        return self.loss.full_weights[0]

    @property
    def max_query_regularizer_weight(self) -> float | None:
        """Highest weight of the queries' regularizer, or None."""
        return self.loss.full_weights[1]

    def share(self, step: int, total: int) -> float:
        """Share of the weights at a step, of `total`."""
        done = min(step / max(1, int(total * self.warmup_ratio)), 1.0)
        return done if self.scheduler_type is SchedulerType.LINEAR else done**2

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the share of the step that the run begins at."""
        del args, control, kwargs
        self.loss.warm(self.share(state.global_step, state.max_steps))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the share of this step."""
        del args, control, kwargs
        self.loss.warm(self.share(state.global_step, state.max_steps))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the weights."""
        del args, state, control
        kwargs["logs"]["document_regularizer_weight"] = self.loss.document_regularizer_weight
        if self.loss.query_regularizer_weight is not None:
            kwargs["logs"]["query_regularizer_weight"] = self.loss.query_regularizer_weight
