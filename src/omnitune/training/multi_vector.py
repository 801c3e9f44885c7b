"""The trainer of late-interaction encoders; the loops are in `training.base`."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset, DatasetDict, IterableDataset
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    FeatureExtractionMixin,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
)
from transformers.image_processing_utils import BaseImageProcessor

from omnitune.data.collator import Collator
from omnitune.evaluation import BaseEvaluator
from omnitune.losses.multi_vector import MultiVectorMultipleNegativesRankingLoss
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.training.arguments import BaseTrainingArguments, MultiVectorEncoderTrainingArguments
from omnitune.training.base import BaseTrainer, LossArgument

logger = logging.getLogger(__name__)


class MultiVectorEncoderTrainer(BaseTrainer):
    """Trains and evaluates a `MultiVectorEncoder`. The first column is of queries, the others are of documents.

    Args:
        model: The model to train.
        args: Training arguments.
        train_dataset: A dataset, several in a dict, or a stream. The order of its columns is their meaning: the first
            is the query; one named label, labels, score or scores holds the labels.
        eval_dataset: The same, for the evaluation loss.
        loss: A loss, or a function that makes one for a model; or a dict of them by dataset. By default
            `MultiVectorMultipleNegativesRankingLoss`.
        evaluator: An evaluator, or several that run one after another.
        data_collator: Makes batches of rows, by default a `Collator`.
        processing_class: Saved with the checkpoints beside the model's own.
        model_init: Makes the model, anew for every run of a hyper-parameter search.
        compute_metrics: Not used: evaluators give metrics.
        callbacks: Further callbacks.
        optimizers: Optimizer and scheduler to use instead of those that `args` say.
        optimizer_cls_and_kwargs: Class of the optimizer and its arguments.
        preprocess_logits_for_metrics: Not used.

    Attributes:
        skipped_items: Bad items whose rows were left out, with `on_bad_item="skip"`.
        opening_lines: What the run said of itself at its start.

    Raises:
        InputError: The arguments do not go together; the message names them.
        DatasetError: A dataset is of an unknown kind or has columns that cannot be.
    """

    arguments_class = MultiVectorEncoderTrainingArguments

    def __init__(
        self,
        model: MultiVectorEncoder | None = None,
        args: MultiVectorEncoderTrainingArguments | None = None,
        train_dataset: Dataset | DatasetDict | IterableDataset | dict[str, Dataset] | None = None,
        eval_dataset: Dataset | DatasetDict | IterableDataset | dict[str, Dataset] | None = None,
        loss: LossArgument = None,
        evaluator: BaseEvaluator | list[BaseEvaluator] | None = None,
        data_collator: Collator | None = None,
        processing_class: PreTrainedTokenizerBase
        | BaseImageProcessor
        | FeatureExtractionMixin
        | ProcessorMixin
        | None = None,
        model_init: Callable[[], MultiVectorEncoder] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            loss=loss,
            evaluator=evaluator,
            data_collator=data_collator,
            model_init=model_init,
            ignored={
                "compute_metrics: evaluators give metrics": compute_metrics is not None,
                "preprocess_logits_for_metrics: evaluators give metrics": preprocess_logits_for_metrics is not None,
            },
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )

    def default_collator(self, args: BaseTrainingArguments) -> Collator:
        """A collator that knows queries from documents by their place."""
        return Collator(
            router_mapping=args.router_mapping,
            prompts=args.prompts,
            roles=("query", "document"),
            max_length=getattr(args, "max_length", None),
        )

    def get_default_loss(self, model: MultiVectorEncoder) -> nn.Module:
        """`MultiVectorMultipleNegativesRankingLoss`, for queries with a positive, and with negatives."""
        logger.warning("loss: none given, so MultiVectorMultipleNegativesRankingLoss is used.")
        return MultiVectorMultipleNegativesRankingLoss(model)
