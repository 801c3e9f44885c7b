"""Weights of SPLADE's regularizers that rise from zero, because a model that is held sparse at once learns nothing."""

import logging
from enum import Enum
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from omnitune.errors import InputError
from omnitune.losses.sparse import SpladeLoss

logger = logging.getLogger(__name__)


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
