"""`model.fit` of scripts before version 3 (of cross encoders: 4), done by the trainer.

Batches of `InputExample`s become datasets, the scheduler and the groups of weight decay are those that `fit` had, and
the evaluator runs every `evaluation_steps` and after every epoch.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from omnitune.compat.old_datasets import NoDuplicatesDataLoader, SentenceLabelDataset
from omnitune.data.multi_samplers import MultiDatasetBatchSamplers
from omnitune.data.samplers import BatchSamplers
from omnitune.engine.engine import to_device
from omnitune.errors import InputError
from omnitune.losses.cross_encoder import BinaryCrossEntropyLoss, CrossEntropyLoss
from omnitune.model.dense import SentenceTransformer
from omnitune.model.pair import CrossEncoder
from omnitune.training.arguments import CrossEncoderTrainingArguments, SentenceTransformerTrainingArguments
from omnitune.training.trainer import CrossEncoderTrainer, SentenceTransformerTrainer

logger = logging.getLogger(__name__)

NOT_DECAYED = ("bias", "LayerNorm.bias", "LayerNorm.weight")
"""Parts of the names of parameters that weight decay leaves alone."""

SCHEDULERS: dict[str, Callable[[Any, int, int], Any]] = {
    "constantlr": lambda optimizer, _, __: transformers.get_constant_schedule(optimizer),
    "warmupconstant": lambda optimizer, warmup, _: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
    "warmuplinear": transformers.get_linear_schedule_with_warmup,
    "warmupcosine": transformers.get_cosine_schedule_with_warmup,
    "warmupcosinewithhardrestarts": transformers.get_cosine_with_hard_restarts_schedule_with_warmup,
}
"""Schedulers by the names that `fit` knew."""


def fit(
    model: SentenceTransformer,
    train_objectives: Iterable[tuple[Any, nn.Module]],
    evaluator: Any = None,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    scheduler: str = "WarmupLinear",
    warmup_steps: int = 10000,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
    optimizer_params: Mapping[str, Any] | None = None,
    weight_decay: float = 0.01,
    evaluation_steps: int = 0,
    output_path: str | None = None,
    save_best_model: bool = True,
    max_grad_norm: float = 1,
    use_amp: bool = False,
    callback: Callable[[float, int, int], None] | None = None,
    show_progress_bar: bool = True,
    checkpoint_path: str | None = None,
    checkpoint_save_steps: int = 500,
    checkpoint_save_total_limit: int = 0,
    resume_from_checkpoint: bool = False,
) -> None:
    """Train a dense encoder on data loaders of examples; several take turns.

    Args:
        model: The encoder.
        train_objectives: Pairs of a data loader of `InputExample`s and the loss for it.
        evaluator: Measures the model every `evaluation_steps` steps and after every epoch.
        epochs: Passes over the data.
        steps_per_epoch: Steps to take at all, with one epoch; ignored with more.
        scheduler: One of `SCHEDULERS`, in upper or lower case.
        warmup_steps: Steps in which the learning rate rises.
        optimizer_class: Class of the optimizer.
        optimizer_params: Its arguments; by default `{"lr": 2e-5}`.
        weight_decay: Of all weights but biases and layer norms.
        evaluation_steps: See above; 0 evaluates after epochs alone.
        output_path: Where the best model is saved, or without an evaluator the last.
        save_best_model: Whether the best one is.
        max_grad_norm: Limit of the gradients' norm.
        use_amp: Train in float16.
        callback: Called with the evaluator's score, the epoch and the step.
        show_progress_bar: Whether to show progress.
        checkpoint_path: Where to keep checkpoints; None keeps none.
        checkpoint_save_steps: Steps between two of them.
        checkpoint_save_total_limit: Checkpoints to keep; 0 keeps all.
        resume_from_checkpoint: Go on from the last checkpoint in `checkpoint_path`.

    Raises:
        InputError: There are no examples, or no such scheduler.
    """
    loaders, losses = zip(*train_objectives, strict=True)
    datasets = {f"_dataset_{number}": _rows(loader) for number, loader in enumerate(loaders, start=1)}
    by_name = dict(zip(datasets, losses, strict=True))
    batch_size = _batch_size(loaders[-1])
    max_steps = -1
    if steps_per_epoch:
        if epochs == 1:
            max_steps = steps_per_epoch
        else:
            logger.warning("steps_per_epoch: ignored with more than one epoch, which are whole passes over the data.")
    shortest = min(len(rows) // batch_size for rows in datasets.values())
    total = max_steps if max_steps > 0 else shortest * epochs * len(losses)
    with tempfile.TemporaryDirectory() as nowhere:
        args = SentenceTransformerTrainingArguments(
            output_dir=checkpoint_path or nowhere,
            batch_sampler=_sampler(loaders[-1]),
            multi_dataset_batch_sampler=MultiDatasetBatchSamplers.ROUND_ROBIN,
            max_steps=max_steps,
            save_strategy="no" if checkpoint_path is None else "steps",
            save_steps=checkpoint_save_steps,
            save_total_limit=checkpoint_save_total_limit or None,
            **_shared(batch_size, epochs, evaluator, evaluation_steps, max_grad_norm, use_amp, show_progress_bar),
        )
        watch = _Watch(model, evaluator, output_path, save_best_model, callback)
        trainer = SentenceTransformerTrainer(
            model=model,
            args=args,
            train_dataset=datasets,
            loss=by_name,
            evaluator=evaluator,
            callbacks=[watch],
            optimizers=_optimizer(
                nn.ModuleDict({"model": model, **by_name}), optimizer_class, optimizer_params, weight_decay, scheduler,
                warmup_steps, total,
            ),
        )  # fmt: skip
        found = [path for path in Path(args.output_dir).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
        trainer.train(resume_from_checkpoint=bool(resume_from_checkpoint and checkpoint_path and found))


def fit_pairs(
    model: CrossEncoder,
    train_dataloader: Any,
    evaluator: Any = None,
    epochs: int = 1,
    loss_fct: Any = None,
    activation_fct: Callable[[Tensor], Tensor] | None = None,
    scheduler: str = "WarmupLinear",
    warmup_steps: int = 10000,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
    optimizer_params: Mapping[str, Any] | None = None,
    weight_decay: float = 0.01,
    evaluation_steps: int = 0,
    output_path: str | None = None,
    save_best_model: bool = True,
    max_grad_norm: float = 1,
    use_amp: bool = False,
    callback: Callable[[float, int, int], None] | None = None,
    show_progress_bar: bool = True,
) -> None:
    """Train a cross encoder on a data loader of examples.

    Args:
        model: The cross encoder.
        train_dataloader: Of `InputExample`s with two texts.
        evaluator: As in `fit`, as are all that are not named below.
        loss_fct: `(logits, labels) -> loss`; by default binary cross-entropy for one label, cross-entropy for several.
        activation_fct: Applied to the logits before the loss.

    Raises:
        InputError: There are no examples, or no such scheduler.
    """
    rows = _rows(train_dataloader)
    batch_size = _batch_size(train_dataloader)
    activation = activation_fct or nn.Identity()
    loss: nn.Module
    if loss_fct is not None:
        loss = OnLogits(model, loss_fct, activation)
    elif model.num_labels == 1:
        loss = BinaryCrossEntropyLoss(model, activation_fn=activation)  # type: ignore[arg-type]  # any callable
    else:
        loss = CrossEntropyLoss(model, activation_fn=activation)  # type: ignore[arg-type]  # any callable
    with tempfile.TemporaryDirectory() as nowhere:
        args = CrossEncoderTrainingArguments(
            output_dir=nowhere,
            batch_sampler=_sampler(train_dataloader),
            save_strategy="no",
            **_shared(batch_size, epochs, evaluator, evaluation_steps, max_grad_norm, use_amp, show_progress_bar),
        )
        CrossEncoderTrainer(
            model=model,
            args=args,
            train_dataset=rows,
            loss=loss,
            evaluator=evaluator,
            callbacks=[_Watch(model, evaluator, output_path, save_best_model, callback)],
            optimizers=_optimizer(
                model, optimizer_class, optimizer_params, weight_decay, scheduler, warmup_steps,
                len(rows) // batch_size * epochs,
            ),
        ).train()  # fmt: skip


class OnLogits(nn.Module):
    """A function of logits and labels as a loss of pairs.

    Args:
        model: The cross encoder.
        loss_fct: `(logits, labels) -> loss`.
        activation_fn: Applied to the logits first.
    """

    def __init__(self, model: CrossEncoder, loss_fct: Any, activation_fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.loss_fct = loss_fct
        self.activation_fn = activation_fn

    def forward(self, inputs: Sequence[Sequence[Any]], labels: Tensor) -> Tensor:
        """Loss of the pairs that two columns make."""
        if len(inputs) != 2:
            raise InputError(f"train_dataloader: expected examples with two texts, got {len(inputs)}")
        pairs = list(zip(*inputs, strict=True))
        scores: Tensor = self.model(to_device(self.model.preprocess(pairs), self.model.device))["scores"]
        one = self.model.num_labels == 1
        scores, labels = (scores.view(-1), labels.float()) if one else (scores, labels.long())
        loss: Tensor = self.loss_fct(self.activation_fn(scores), labels.to(scores.device))
        return loss


class _Watch(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Runs the evaluator after every epoch, tells the caller its score, and saves the best model."""

    def __init__(
        self, model: Any, evaluator: Any, output_path: str | None, save_best: bool, tell: Callable[..., None] | None
    ) -> None:
        self.model = model
        self.evaluator = evaluator
        self.output_path = output_path
        self.save_best = save_best
        self.tell = tell
        self.best: float | None = None

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the model."""
        del args, control, kwargs
        if self.evaluator is None:
            return
        place = None if self.output_path is None else Path(self.output_path) / "eval"
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        found = self.evaluator(
            self.model, output_path=None if place is None else str(place), epoch=state.epoch, steps=state.global_step
        )
        self._use(found if isinstance(found, dict) else {"evaluator": found}, state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Use what the trainer measured."""
        del args, control
        self._use(kwargs["metrics"], state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save the last model, where none is known to be better."""
        del args, state, control, kwargs
        if self.evaluator is None and self.output_path is not None:
            self.model.save(self.output_path)

    def _use(self, metrics: Mapping[str, float], state: TrainerState) -> None:
        wanted = getattr(self.evaluator, "primary_metric", None) or "evaluator"
        value = next((value for name, value in metrics.items() if name.endswith(wanted)), None)
        if value is None:
            return
        if self.tell is not None:
            self.tell(value, state.epoch, state.global_step)
        higher = getattr(self.evaluator, "greater_is_better", True)
        if self.best is None or (value > self.best if higher else value < self.best):
            self.best = value
            if self.save_best and self.output_path is not None:
                self.model.save(self.output_path)


def _rows(loader: Any) -> Dataset:
    """The examples of a data loader, in the order in which it gives them now."""
    loader.collate_fn = list
    examples = [example for batch in loader for example in batch]
    if not examples:
        raise InputError("train_objectives: expected examples, got an empty data loader")
    columns: dict[str, list[Any]] = {
        f"sentence_{place}": list(texts)
        for place, texts in enumerate(zip(*(example.texts for example in examples), strict=True))
    }
    labels = [getattr(example.label, "tolist", lambda own=example.label: own)() for example in examples]
    # 0 is what an example without a label has.
    if any(isinstance(label, list) or label != 0 for label in labels):
        columns["label"] = labels
    return Dataset.from_dict(columns)


def _batch_size(loader: Any) -> int:
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size or 8


def _sampler(loader: Any) -> BatchSamplers:
    if isinstance(loader, NoDuplicatesDataLoader):
        return BatchSamplers.NO_DUPLICATES
    labelled = isinstance(getattr(loader, "dataset", None), SentenceLabelDataset)
    return BatchSamplers.GROUP_BY_LABEL if labelled else BatchSamplers.BATCH_SAMPLER


def _shared(
    batch_size: int, epochs: int, evaluator: Any, evaluation_steps: int, max_grad_norm: float, amp: bool, show: bool
) -> dict[str, Any]:
    """Arguments of both families' runs."""
    evaluates = evaluator is not None and (evaluation_steps or 0) > 0
    return {
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "num_train_epochs": epochs,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": evaluation_steps if evaluates else None,
        "max_grad_norm": max_grad_norm,
        "fp16": amp,
        "disable_tqdm": not show,
    }


def _optimizer(
    trained: nn.Module,
    kind: type[torch.optim.Optimizer],
    parameters: Mapping[str, Any] | None,
    weight_decay: float,
    scheduler: str,
    warmup_steps: int,
    steps: int,
) -> tuple[torch.optim.Optimizer, Any]:
    if scheduler.lower() not in SCHEDULERS:
        raise InputError(f"scheduler: expected one of {sorted(SCHEDULERS)}, got {scheduler!r}")
    named = list(trained.named_parameters())
    groups = [
        {
            "params": [p for name, p in named if any(part in name for part in NOT_DECAYED) != decayed],
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for decayed in (True, False)
    ]
    optimizer = kind(groups, **({"lr": 2e-5} if parameters is None else parameters))
    return optimizer, SCHEDULERS[scheduler.lower()](optimizer, warmup_steps, steps)
