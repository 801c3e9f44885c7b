"""The trainers that users name, one a family; the loops are in `training.base`."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from omnitune.losses import CoSENTLoss
from omnitune.losses.cross_encoder import BinaryCrossEntropyLoss, CrossEntropyLoss
from omnitune.losses.multi_vector import MultiVectorMultipleNegativesRankingLoss
from omnitune.losses.sparse import CSRLoss, SparseMultipleNegativesRankingLoss, SpladeLoss
from omnitune.model.dense import SentenceTransformer
from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.model.pair import CrossEncoder
from omnitune.model.sparse import SparseEncoder
from omnitune.modules.sparse_auto_encoder import SparseAutoEncoder
from omnitune.training import binding
from omnitune.training.arguments import (
    BaseTrainingArguments,
    CrossEncoderTrainingArguments,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformerTrainingArguments,
    SparseEncoderTrainingArguments,
)
from omnitune.training.base import BaseTrainer
from omnitune.training.callbacks import SpladeRegularizerWeightSchedulerCallback
from omnitune.types import CollatedItems, Column

logger = logging.getLogger(__name__)


class SentenceTransformerTrainer(BaseTrainer):
    """Trains and evaluates a `SentenceTransformer`; without a loss, with `CoSENTLoss`.

    The arguments are those of `BaseTrainer`. `train()` trains; `evaluate()` gives the loss of `eval_dataset` and the
    evaluators' metrics; `save_model()` writes the model to the output folder.

    Example:
        >>> from omnitune.losses import MultipleNegativesRankingLoss
        >>> rows = Dataset.from_dict({"query": ["How hot is the oven?", "What is greased?"], "answer": pages[::-1]})
        >>> args = SentenceTransformerTrainingArguments("runs", num_train_epochs=1, batch_sampler="no_duplicates")
        >>> loss = MultipleNegativesRankingLoss(model)
        >>> trainer = SentenceTransformerTrainer(model, args, train_dataset=rows, loss=loss)
    """

    training_args_class = SentenceTransformerTrainingArguments

    def get_default_loss(self, model: SentenceTransformer) -> nn.Module:
        """`CoSENTLoss`, for pairs with a score."""
        logger.warning("loss: none given, so CoSENTLoss is used, which takes pairs and a score.")
        return CoSENTLoss(model)


class CrossEncoderTrainer(BaseTrainer):
    """Trains and evaluates a `CrossEncoder`; the first column is the query.

    The arguments are those of `BaseTrainer`. Without a loss, a model with one label takes `BinaryCrossEntropyLoss`, one
    with several `CrossEntropyLoss`.

    Example:
        >>> query = "How hot is the oven?"
        >>> rows = Dataset.from_dict({"query": [query, query], "passage": pages, "label": [0.0, 1.0]})
        >>> args = CrossEncoderTrainingArguments("runs", learning_rate=2e-5)
        >>> trainer = CrossEncoderTrainer(reranker, args, train_dataset=rows)
    """

    training_args_class = CrossEncoderTrainingArguments

    def get_default_loss(self, model: CrossEncoder) -> nn.Module:
        """Binary cross-entropy for one label, cross-entropy for several."""
        kind = BinaryCrossEntropyLoss if model.num_labels == 1 else CrossEntropyLoss
        logger.warning("loss: none given, so %s is used, which takes pairs and a label.", kind.__name__)
        return kind(model)

    def _features(self, columns: Sequence[Column]) -> list[Any]:
        """The raw items of every column: a loss that calls a cross encoder itself makes the pairs, too."""
        return [CollatedItems(column) for column in columns]


class MultiVectorEncoderTrainer(BaseTrainer):
    """Trains and evaluates a `MultiVectorEncoder`. The first column is of queries, the others are of documents.

    The arguments are those of `BaseTrainer`. Without a loss, `MultiVectorMultipleNegativesRankingLoss` is taken.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot is the oven?", "What is greased?"], "page": pages[::-1]})
        >>> args = MultiVectorEncoderTrainingArguments("runs", per_device_train_batch_size=32)
        >>> trainer = MultiVectorEncoderTrainer(late, args, train_dataset=rows)
    """

    training_args_class = MultiVectorEncoderTrainingArguments

    def get_data_collator(self, model: Any, args: BaseTrainingArguments, processing_class: Any = None) -> Any:
        """Make a collator that knows queries from documents by their place."""
        del model, processing_class
        return self.data_collator_class(
            router_mapping=args.router_mapping,
            prompts=args.prompts,
            roles=("query", "document"),
            max_length=getattr(args, "max_length", None),
        )

    def get_default_loss(self, model: MultiVectorEncoder) -> nn.Module:
        """`MultiVectorMultipleNegativesRankingLoss`, for queries with a positive, and with negatives."""
        logger.warning("loss: none given, so MultiVectorMultipleNegativesRankingLoss is used.")
        return MultiVectorMultipleNegativesRankingLoss(model)


class SparseEncoderTrainer(BaseTrainer):
    """Trains and evaluates a `SparseEncoder`. The first column is of queries.

    The arguments are those of `BaseTrainer`. Without a loss, `SpladeLoss` of `SparseMultipleNegativesRankingLoss` is
    taken; `CSRLoss` for a model with a `SparseAutoEncoder`. With a `SpladeLoss`, its regularizers' weights rise from
    zero, as `SpladeRegularizerWeightSchedulerCallback` says; one of its kind among `callbacks` takes the place of the
    default one.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot is the oven?", "What is greased?"], "answer": pages[::-1]})
        >>> args = SparseEncoderTrainingArguments("runs", batch_sampler="no_duplicates")
        >>> trainer = SparseEncoderTrainer(sparse, args, train_dataset=rows)
    """

    training_args_class = SparseEncoderTrainingArguments

    def _bound(self) -> binding.Losses:
        """Bind the losses, and give each `SpladeLoss` a schedule of its weights, where the logs are still open."""
        bound = super()._bound()
        callbacks = self.callback_handler.callbacks
        given = [each for each in callbacks if isinstance(each, SpladeRegularizerWeightSchedulerCallback)]
        for schedule in given:
            callbacks.remove(schedule)
        for loss in bound.values() if isinstance(bound, dict) else [bound]:
            if isinstance(loss, SpladeLoss):
                own = next((schedule for schedule in given if schedule.loss is loss), None)
                # Behind the callback that decides what a step does, before those that write logs down.
                callbacks.insert(1, own or SpladeRegularizerWeightSchedulerCallback(loss))
        return bound

    def get_default_loss(self, model: SparseEncoder) -> nn.Module:
        """`SpladeLoss` of `SparseMultipleNegativesRankingLoss`, or `CSRLoss`; for queries with a positive."""
        if any(isinstance(module, SparseAutoEncoder) for module in model.modules()):
            logger.warning("loss: none given, so CSRLoss is used.")
            return CSRLoss(model)
        logger.warning("loss: none given, so SpladeLoss(SparseMultipleNegativesRankingLoss) is used.")
        inner = SparseMultipleNegativesRankingLoss(model)
        return SpladeLoss(model, inner, document_regularizer_weight=3e-5, query_regularizer_weight=5e-5)
