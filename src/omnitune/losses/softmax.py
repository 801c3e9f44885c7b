"""Pairs of a class, told by a classifier on their embeddings."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.base import Loss
from omnitune.renames import renamed
from omnitune.types import Embeddings, Objective

_CROSS_ENTROPY = nn.CrossEntropyLoss()


class SoftmaxLoss(Loss):
    """Classification of two input columns, with a linear classifier that belongs to the loss and trains with it.

    Labels are classes `(rows,)`, or their probabilities `(rows, classes)`.

    Args:
        model: The encoder.
        embedding_dimension: Dimension of its embeddings.
        num_labels: Number of classes.
        concatenation_sent_rep: The classifier sees both embeddings.
        concatenation_sent_difference: It sees their absolute difference.
        concatenation_sent_multiplication: It sees their product.
        loss_fct: Compares its outputs `(rows, classes)` with labels.

    Raises:
        InputError: The classifier would see nothing.

    Source:
        Reimers and Gurevych 2019, section 3 (arXiv:1908.10084).

    Example:
        >>> rows = Dataset.from_dict({"a": ["hot", "hot", "hot"], "b": ["warm", "red", "cold"], "label": [0, 1, 2]})
        >>> loss = SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=3)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    paper = "reimers2019sentence"

    any_width = False
    lists = "rows"
    config_keys = [
        "num_labels",
        "concatenation_sent_rep",
        "concatenation_sent_difference",
        "concatenation_sent_multiplication",
    ]

    @renamed(sentence_embedding_dimension="embedding_dimension")
    def __init__(
        self,
        model: nn.Module,
        embedding_dimension: int,
        num_labels: int,
        concatenation_sent_rep: bool = True,
        concatenation_sent_difference: bool = True,
        concatenation_sent_multiplication: bool = False,
        loss_fct: Callable[[Tensor, Tensor], Tensor] = _CROSS_ENTROPY,
    ) -> None:
        super().__init__(model)
        self.num_labels = num_labels
        self.concatenation_sent_rep = concatenation_sent_rep
        self.concatenation_sent_difference = concatenation_sent_difference
        self.concatenation_sent_multiplication = concatenation_sent_multiplication
        self.loss_fct = loss_fct
        vectors = 2 * concatenation_sent_rep + concatenation_sent_difference + concatenation_sent_multiplication
        if not vectors:
            raise InputError("concatenation_sent_*: expected at least one to be True, got none")
        device = next(model.parameters()).device
        self.classifier = nn.Linear(vectors * embedding_dimension, num_labels, device=device)

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Classification loss of two `(rows, dim)` columns."""
        self._expect_columns(embeddings, "(input, input)", least=2, most=2)
        outputs = self.classify(embeddings[0].values, embeddings[1].values)
        classes = self._expect_labels(labels, "classes, or their probabilities")
        probabilities = self.num_labels > 1 and classes.shape == outputs.shape
        return self.loss_fct(outputs, classes if probabilities else classes.reshape(-1))

    def classify(self, first: Tensor, second: Tensor) -> Tensor:
        """The classifier's outputs `(rows, classes)` for pairs of embeddings `(rows, dim)`."""
        seen = []
        if self.concatenation_sent_rep:
            seen += [first, second]
        if self.concatenation_sent_difference:
            seen.append((first - second).abs())
        if self.concatenation_sent_multiplication:
            seen.append(first * second)
        outputs: Tensor = self.classifier(torch.cat(seen, dim=1).to(self.classifier.weight.dtype))
        return outputs
