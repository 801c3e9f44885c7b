"""Training and evaluation loops of all families, on `transformers.Trainer`.

Overrides: `train`, `evaluate`, `evaluation_loop`, `compute_loss`, `training_step`, `log`, `create_optimizer`,
`create_model_card`, `save_model`; and what `training.hooks` asks for in place of transformers' private methods.

A batch is raw columns; the loss hands them to the model's engine, which makes tensors just in time. So neither the data
loader's workers nor the device ever hold the tensors of a whole batch.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput

from omnitune.data.check import BadItem
from omnitune.data.collator import Collator
from omnitune.data.columns import has_lists, input_columns
from omnitune.engine.fsdp_sync import whole
from omnitune.errors import InputError
from omnitune.evaluation import BaseEvaluator, SequentialEvaluator
from omnitune.losses import Loss
from omnitune.losses.base import overridden
from omnitune.losses.lists import holds_lists
from omnitune.model.base import Model
from omnitune.ops.collectives import leave_gloo_at_exit
from omnitune.renames import renamed
from omnitune.report import card
from omnitune.report.facts import TrainingFacts
from omnitune.training import binding, weights
from omnitune.training.arguments import BaseTrainingArguments, warn_ignored
from omnitune.training.callbacks import CardRecorder, FiniteGradients, OpeningLines, ZeroGradients
from omnitune.training.distributed import average_gradients, keep_unwrapped, shard_as_asked, start_alike
from omnitune.training.feed import AnyDataset, Feed, named, several
from omnitune.training.loaders import Loaders, NamedDataset
from omnitune.training.metrics import LossParts, check_best_metric, measure
from omnitune.training.old_names import own_processor
from omnitune.types import Batch

logger = logging.getLogger(__name__)

LossArgument = (
    nn.Module | dict[str, nn.Module] | Callable[[Any], nn.Module] | dict[str, Callable[[Any], nn.Module]] | None
)


class BaseTrainer(Loaders):
    """The trainer of all families; a subclass says which arguments and which default loss.

    Attributes:
        skipped_items: Bad items whose rows were left out, with `on_bad_item="skip"`.
        opening_lines: What the run said of itself at its start.
    """

    training_args_class: ClassVar[type[BaseTrainingArguments]] = BaseTrainingArguments
    data_collator_class: ClassVar[type[Collator]] = Collator
    loss_is_scaled_for_ga = False

    @renamed(tokenizer="processing_class")
    def __init__(
        self,
        model: Model | None = None,
        args: BaseTrainingArguments | None = None,
        train_dataset: AnyDataset | None = None,
        eval_dataset: AnyDataset | None = None,
        loss: LossArgument = None,
        evaluator: BaseEvaluator | list[BaseEvaluator] | None = None,
        data_collator: Collator | None = None,
        processing_class: Any = None,
        model_init: Callable[..., Model] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Set up a run.

        Args:
            model: The model to train, of the trainer's family.
            args: Training arguments, of the trainer's `training_args_class`.
            train_dataset: A dataset or a stream, or several of either in a dict. The order of its columns is their
                meaning: where queries differ from documents, the first is of queries; one named label, labels, score
                or scores holds the labels.
            eval_dataset: The same, for the evaluation loss.
            loss: A loss, or a function that makes one for a model; or a dict of them by dataset. None takes
                `get_default_loss`.
            evaluator: An evaluator, or several that run one after another.
            data_collator: Makes batches of rows, by default a `Collator`.
            processing_class: Tokenizer or processor, saved with the checkpoints beside the model's own.
            model_init: Makes the model, anew for every run of a hyper-parameter search.
            compute_metrics: Not used: evaluators give metrics.
            callbacks: Further callbacks.
            optimizers: Optimizer and scheduler to use instead of those that `args` say.
            optimizer_cls_and_kwargs: Class of the optimizer and its arguments.
            preprocess_logits_for_metrics: Not used.

        Raises:
            InputError: The arguments do not go together; the message names them.
            DatasetError: A dataset is of an unknown kind or has columns that cannot be.
        """
        args = args if args is not None else self.training_args_class(output_dir="tmp_trainer")
        if not isinstance(args, self.training_args_class):
            raise InputError(f"args: expected {self.training_args_class.__name__}, got {type(args).__name__}")
        if model is None and model_init is None:
            raise InputError("model: expected a model, or model_init that makes one; got neither")
        ignored = {
            "compute_metrics: evaluators give metrics": compute_metrics is not None,
            "preprocess_logits_for_metrics: evaluators give metrics": preprocess_logits_for_metrics is not None,
            "model: model_init makes another one": None not in (model, model_init),
        }
        warn_ignored(args, ignored)
        eval_dataset = several(eval_dataset, "eval_dataset")
        if eval_dataset is None and evaluator is None and args.eval_strategy != "no":
            raise InputError(
                f"eval_strategy: expected an eval_dataset or an evaluator for {args.eval_strategy.value!r}, got neither"
            )
        shard_as_asked(model, args)
        self._make_user_model = model_init
        self.loss: Any = None
        super().__init__(
            model=None if model_init is not None else model,
            args=args,
            data_collator=data_collator or self.get_data_collator(model, args, processing_class),
            train_dataset=several(train_dataset, "train_dataset"),
            # An empty list stands for "only an evaluator": the base class wants some dataset to evaluate.
            eval_dataset=[] if eval_dataset is None and evaluator is not None else eval_dataset,
            model_init=None if model_init is None else self._make_model,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        self._given_processing_class = processing_class
        self.processing_class = self.callback_handler.processing_class = processing_class or own_processor(self.model)
        self.eval_dataset = eval_dataset
        self.evaluator: Any = (
            SequentialEvaluator(evaluator) if isinstance(evaluator, list | tuple) and evaluator else evaluator or None
        )
        keep_unwrapped(self)
        leave_gloo_at_exit(self._release)
        binding.check_routes(self.model, self.args.router_mapping)
        self.can_return_loss = True
        self.model_accepts_loss_kwargs = False
        if self.accelerator.dataloader_config.dispatch_batches is None:
            # Raw batches are read by every rank for itself; there are no tensors to send around.
            self.accelerator.dataloader_config.dispatch_batches = False
        self.skipped_items: list[BadItem] = []
        self.opening_lines: list[str] = []
        self._parts = LossParts()
        self._feed = Feed(self.model, self.args, self.data_collator)
        if self.args.hub_model_id and not self.model.model_card_data.model_id:
            self.model.model_card_data.set_model_id(self.args.hub_model_id)
        self._finite = FiniteGradients()
        self.add_callback(ZeroGradients())
        self.add_callback(self._finite)
        self.add_callback(CardRecorder(lambda: self.model.model_card_data, self._describe))
        self.add_callback(OpeningLines(lambda: self.opening_lines, lambda: [str(item) for item in self.skipped_items]))
        self._given_loss = loss
        self.loss = self._bound()
        if args.eval_strategy != "no" and args.metric_for_best_model is not None:
            check_best_metric(args.metric_for_best_model, list(named(self.eval_dataset)), self.evaluator, self.model)

    def _release(self) -> None:
        """Give up the distributed wrapper of the model."""
        self.model_wrapped = self.model
        self.accelerator.free_memory()

    def _bound(self) -> binding.Losses:
        """Bind the losses to the model; one that was given as a function is made anew."""
        loss = self.get_default_loss(self.model) if self._given_loss is None else self._given_loss
        datasets = {"train_dataset": self.train_dataset, "eval_dataset": self.eval_dataset}
        names = {argument: list(named(dataset)) for argument, dataset in datasets.items()}
        return binding.bind_all(loss, names, self.model, self.args.activation_memory)

    def _make_model(self, trial: Any) -> Model:
        """A model for a new run or trial, and the losses bound to it."""
        assert self._make_user_model is not None
        takes_trial = len(inspect.signature(self._make_user_model).parameters) > 0
        model = self._make_user_model(trial) if takes_trial else self._make_user_model()
        if self.loss is not None:
            self.model = model
            self._feed.model = model
            self.loss = self._bound()
        return model

    def get_data_collator(self, model: Model | None, args: BaseTrainingArguments, processing_class: Any = None) -> Any:
        """Make the collator where none is given; override it for another.

        Args:
            model: The model, or None where `model_init` makes it.
            args: Prompts and routes.
            processing_class: What the trainer was given.
        """
        del model, processing_class
        return self.data_collator_class(router_mapping=args.router_mapping, prompts=args.prompts)

    def get_default_loss(self, model: Any) -> nn.Module:
        """The loss where none is given."""
        raise NotImplementedError

    # -- training

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Check every item, then train.

        Args:
            resume_from_checkpoint: A checkpoint's folder; True takes the last whole one in `args.output_dir`.
            trial: Trial of a hyper-parameter search.
            ignore_keys_for_eval: Unused: losses have no outputs besides the loss.

        Raises:
            DatasetError: An item cannot be encoded or a label is not a number, and `args.on_bad_item` is "raise".
        """
        if resume_from_checkpoint is True:
            last = weights.last_checkpoint(Path(self.args.output_dir))
            resume_from_checkpoint = True if last is None else str(last)  # without one, the base class says so
        self.skipped_items += self._feed.screen(
            self.train_dataset, self.eval_dataset, resuming=bool(resume_from_checkpoint)
        )
        columns = {
            name: input_columns(dataset.column_names, self._feed.labels)
            for name, dataset in named(self.train_dataset).items()
            if not (isinstance(dataset, Dataset) and has_lists(dataset, dataset.column_names))  # a batch's own number
        }
        self.opening_lines = binding.negatives(
            self.loss, columns, self.args.train_batch_size, self.args.gradient_accumulation_steps
        )
        self.opening_lines += self._feed.keep_caches(self.train_dataset)
        start_alike(binding.Trainable(self.loss, self.model))
        # Upstream would write special tokens of the model's own tokenizer into its backbone's configuration.
        shown, self.processing_class = self.processing_class, self._given_processing_class
        try:
            result: TrainOutput = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.processing_class = shown
            for callback in self.callback_handler.callbacks:
                for name in ("training_bar", "prediction_bar"):  # transformers closes them at the end alone
                    bar = getattr(callback, name, None)
                    if bar is not None:
                        bar.close()
                        setattr(callback, name, None)
        return result

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer over the parameters of model and loss, with `learning_rate_mapping` applied."""
        if self.optimizer is not None:
            existing: torch.optim.Optimizer = self.optimizer
            return existing
        trainable = binding.Trainable(self.loss, model if model is not None else self.model)
        made: torch.optim.Optimizer = super().create_optimizer(trainable)
        for pattern, rate in self.args.learning_rate_mapping.items():
            binding.set_rate(made, trainable, pattern, float(rate))
        return made

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """One forward and backward; at the last of an optimizer step, gradients are averaged over the ranks."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.num_processes > 1 and self.accelerator.sync_gradients:
            average_gradients(binding.Trainable(self.loss, self.model).parameters())
        return loss

    def see_gradients(self, norm: Tensor | float) -> None:
        """Stop the run if the gradients of this step are not numbers."""
        self._finite.see(norm, self.state.global_step + 1, self.args)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        """The loss of a batch `()`, by the loss of its dataset, which encodes with the engine and not with `model`.

        There are no outputs besides the loss, so `return_outputs` adds an empty dict.
        """
        del model, num_items_in_batch
        given: Mapping[str, Any] = inputs
        loss = binding.for_dataset(self.loss, given.get("dataset", given.get("dataset_name")))
        columns: Sequence[Any] = given.get("columns", ())
        ours = isinstance(loss, Loss) and not overridden(loss, "forward")
        flat = isinstance(loss, Loss) and loss.lists != "cells" and any(map(holds_lists, columns))
        if "columns" in given and (ours or flat) and not overridden(self, "collect_features"):
            features, labels = columns, given["labels"]  # raw; and cells with lists are laid flat by ours alone
        else:
            features, labels = self.collect_features(given)
        value = loss(features, labels)
        if isinstance(value, dict):
            self.track_loss_components(value)
            value = torch.stack(list(value.values())).sum()
        return (value, {}) if return_outputs else value

    def track_loss_components(self, loss: dict[str, Tensor]) -> None:
        """Keep the named parts of a batch's loss for the next log; override it to look at them."""
        mode = "train" if self.model.training else "eval"
        self._parts.add(mode, loss, skip_nan=self.args.logging_nan_inf_filter)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values, and with a loss the mean of each of its named parts."""
        for key in [k for k in logs if k == "loss" or (k.startswith("eval") and k.endswith("_loss"))]:
            mean = self._parts.take("train" if key == "loss" else "eval")
            logs = {**logs, **{f"{key.removesuffix('loss')}{name}": round(value, 4) for name, value in mean.items()}}
        super().log(logs, start_time)

    # -- evaluation

    def evaluate(
        self,
        eval_dataset: str | AnyDataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Loss over the evaluation datasets, and the evaluators' metrics.

        Args:
            eval_dataset: Other datasets than the trainer's, or the name of one of its own.
            ignore_keys: Unused.
            metric_key_prefix: Put before every metric.
        """
        given: Any = eval_dataset
        if given is None and self.eval_dataset is None and self.evaluator is not None:
            given = []
        elif given is not None and not isinstance(given, str | list | NamedDataset):
            given = several(given, "eval_dataset")
            if isinstance(given, dict):
                given = {name: NamedDataset(dataset, name) for name, dataset in given.items()}
        result: dict[str, float] = super().evaluate(given, ignore_keys, metric_key_prefix)
        return result

    def evaluation_loop(
        self,
        dataloader: "DataLoader[Any]",
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The loss over one dataset; then the evaluators, once for all datasets."""
        output: EvalLoopOutput = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        if self.evaluator is None:
            return output
        prefix = metric_key_prefix
        if self.is_in_train and isinstance(self.eval_dataset, dict) and prefix.startswith("eval_"):
            if prefix.removeprefix("eval_") != next(iter(self.eval_dataset)):
                return output
            prefix = "eval"
        place = Path(self.args.output_dir) / "eval"
        found = measure(self.evaluator, self.model, place, epoch=self.state.epoch, steps=self.state.global_step)
        output.metrics.update({k if k.startswith(f"{prefix}_") else f"{prefix}_{k}": v for k, v in found.items()})
        return output

    # -- checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model, with whole weights; every rank must call this."""
        with whole(self.model):
            super().save_model(output_dir, _internal_call)

    def write_model(self, folder: Path) -> None:
        """Write the model and the processing class, and in a checkpoint what the loss has learnt."""
        self.model.save_pretrained(str(folder))
        if self.processing_class is not None and self.processing_class is not own_processor(self.model):
            self.processing_class.save_pretrained(str(folder))
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            weights.save_loss(self.loss, self.model, folder)

    def restore(self, folder: Path, model: nn.Module) -> None:
        """Copy the weights of a checkpoint back into the model and the loss."""
        weights.restore_model(model, folder)
        weights.restore_loss(self.loss, self.model, folder)

    def restore_best(self, folder: str) -> None:
        """Copy the weights of the best checkpoint back, and say in the card which it was."""
        logger.info("Loading the best model from %s (%s).", folder, self.state.best_metric)
        self.restore(Path(folder), self.model)
        facts = self.model.model_card_data.training
        if facts is not None:
            facts.best_step = int(folder.rsplit("-", 1)[-1])

    # -- the card

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the model's own card, with these facts added.

        Args:
            language: Language of the model.
            license: Licence of its weights.
            tags: Tags to add.
            model_name: Title.
            **kwargs: Accepted for compatibility.
        """
        del kwargs
        if not self.is_world_process_zero():
            return
        data = self.model.model_card_data
        if language:
            data.set_language(language)
        if license:
            data.set_license(license)
        if tags:
            data.add_tags(tags)
        card.write(self.model, Path(self.args.output_dir), model_name=model_name)

    def _describe(self) -> TrainingFacts:
        facts = binding.describe(
            self.loss,
            {"training": named(self.train_dataset), "evaluation": named(self.eval_dataset)},
            self._feed.labels,
        )
        facts.negatives = list(self.opening_lines)
        facts.skipped = [str(item) for item in self.skipped_items]
        return facts
