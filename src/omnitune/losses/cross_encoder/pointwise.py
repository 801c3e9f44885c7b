"""One pair, one label: relevance, a class, a score."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from omnitune.losses.cross_encoder.base import PairLoss
from omnitune.ops.objectives import in_one_format
from omnitune.types import Embeddings, Objective


class BinaryCrossEntropyLoss(PairLoss):
    """Logistic loss over (query, document) pairs with labels 1 and 0, or anything between.

    Args:
        model: The cross encoder, with one label.
        activation_fn: Applied to the scores before the sigmoid of the loss.
        pos_weight: Weight of positive pairs, a scalar tensor: the number of negatives a positive, as a rule.
        **kwargs: For `torch.nn.BCEWithLogitsLoss`.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        Nogueira and Cho 2019, eq. 1 (arXiv:1901.04085), with one score a pair.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"] * 2, "page": pages, "label": [0, 1]})
        >>> loss = BinaryCrossEntropyLoss(reranker, pos_weight=torch.tensor(4.0))  # four negatives a positive
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=loss)
    """

    config_keys = ["activation_fn", "pos_weight"]

    def __init__(
        self,
        model: nn.Module,
        activation_fn: nn.Module = nn.Identity(),  # noqa: B008 - stateless; ST's default
        pos_weight: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, activation_fn)
        self.pos_weight = pos_weight
        self.bce_with_logits_loss = nn.BCEWithLogitsLoss(pos_weight=pos_weight, **kwargs)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Logistic loss of scores `(rows, 1)` against labels in [0, 1]."""
        scores = self.activation_fn(embeddings[0].values.flatten())
        given = self._expect_one_label_per_row(labels, "relevance in [0, 1]", len(scores))
        loss: Tensor = self.bce_with_logits_loss(scores, given.to(scores.device).float())
        return loss


class CrossEntropyLoss(PairLoss):
    """Classification of (query, document) pairs; labels are classes, or probabilities of all classes.

    Args:
        model: The cross encoder, with as many labels as there are classes.
        activation_fn: Applied to the scores before the softmax of the loss.
        **kwargs: For `torch.nn.CrossEntropyLoss`.

    Raises:
        InputError: The model is no cross encoder.

    Source:
        Devlin et al. 2019, section 4.1 (arXiv:1810.04805).

    Example:
        >>> reranker.save_pretrained("reranker")
        >>> new = {"ignore_mismatched_sizes": True}  # a head of three labels in place of one
        >>> classifier = CrossEncoder("reranker", num_labels=3, model_kwargs=new)
        >>> rows = Dataset.from_dict({"a": ["hot"] * 3, "b": ["warm", "red", "cold"], "label": [0, 1, 2]})
        >>> trainer = CrossEncoderTrainer(model=classifier, train_dataset=rows, loss=CrossEntropyLoss(classifier))
    """

    def __init__(
        self,
        model: nn.Module,
        activation_fn: nn.Module = nn.Identity(),  # noqa: B008 - stateless; ST's default
        **kwargs: Any,
    ) -> None:
        super().__init__(model, activation_fn, one_label=False)
        self.ce_loss = nn.CrossEntropyLoss(**kwargs)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Cross-entropy of scores `(rows, classes)`."""
        scores = self.activation_fn(embeddings[0].values)
        given = self._expect_labels(labels, "classes, or a probability of each").to(scores.device)
        if not given.is_floating_point():
            given = self._expect_one_label_per_row(given, "class", len(scores))
        loss: Tensor = self.ce_loss(scores, given)
        return loss


class MSELoss(PairLoss):
    """Squared error between the scores of (query, document) pairs and a teacher's, the labels.

    Args:
        model: The cross encoder, with one label.
        activation_fn: Applied to the scores.
        **kwargs: For `torch.nn.MSELoss`.

    Raises:
        InputError: The model is no cross encoder, or gives more than one score a pair.

    Source:
        Ba and Caruana 2014, who regress a teacher's scores (arXiv:1312.6184).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How hot?"] * 2, "page": pages, "score": [-4.2, 6.1]})
        >>> trainer = CrossEncoderTrainer(model=reranker, train_dataset=rows, loss=MSELoss(reranker))
    """

    def __init__(
        self,
        model: nn.Module,
        activation_fn: nn.Module = nn.Identity(),  # noqa: B008 - stateless; ST's default
        **kwargs: Any,
    ) -> None:
        super().__init__(model, activation_fn)
        self.loss_fct = nn.MSELoss(**kwargs)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Squared error of scores `(rows, 1)`."""
        scores = self.activation_fn(embeddings[0].values.flatten())
        given = self._expect_one_label_per_row(labels, "score", len(scores))
        loss: Tensor = self.loss_fct(*in_one_format(scores, given.to(scores.device).detach().float()))
        return loss
