"""Classification of pairs as alike or not by their similarities."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch

from omnitune.errors import InputError, ShapeError
from omnitune.evaluation.base import EmbeddingEvaluator, check_inputs, similarity_name
from omnitune.ops.classification import binary_metrics
from omnitune.ops.similarity import SimilarityFunction

_DISTANCES = ("euclidean", "manhattan")
_COLUMNS = ("accuracy", "accuracy_threshold", "f1", "precision", "recall", "f1_threshold", "ap", "mcc")


class BinaryClassificationEvaluator(EmbeddingEvaluator):
    """Accuracy, F1, precision, recall, average precision and Matthews correlation at the best threshold.

    Thresholds of distances are distances: a pair is alike if it is no farther apart.

    Args:
        sentences1: First item of every pair.
        sentences2: Second item of every pair.
        labels: 1 for pairs that are alike, 0 for others.
        name, batch_size, show_progress_bar, write_csv, truncate_dim: As in `EmbeddingEvaluator`.
        similarity_fn_names: Similarities to measure; the model's own by default.

    Raises:
        ShapeError: The two sides and the labels differ in number, or there are none.
        InputError: A label is neither 0 nor 1, no pair is alike, or a similarity is unknown.

    Example:
        >>> first, second = ["grease it", "heat it", "heat it"], ["add grease", "warm it up", "a red car"]
        >>> evaluator = BinaryClassificationEvaluator(first, second, labels=[1, 1, 0])
        >>> evaluator(model)[evaluator.primary_metric]
        1.0
    """

    def __init__(
        self,
        sentences1: list[str],
        sentences2: list[str],
        labels: list[int],
        name: str = "",
        batch_size: int = 32,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: list[Literal["cosine", "dot", "euclidean", "manhattan"]] | None = None,
    ) -> None:
        super().__init__()
        check_inputs(sentences1=sentences1, sentences2=sentences2)
        if not len(sentences1) == len(sentences2) == len(labels) or not len(labels):
            raise ShapeError(
                "sentences1, sentences2, labels: expected equally many, and at least one of each, "
                f"got {len(sentences1)}, {len(sentences2)} and {len(labels)}"
            )
        if wrong := [label for label in labels if label not in (0, 1)]:
            raise InputError(f"labels: expected 0 or 1, got {wrong[0]!r}")
        if not any(labels):
            raise InputError(f"labels: expected at least one pair that is alike (1), got {len(labels)} times 0")
        self.sentences1 = sentences1
        self.sentences2 = sentences2
        self.labels = labels
        self.similarity_fn_names: list[str] = [similarity_name(fn) or "" for fn in similarity_fn_names or []]
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "binary_classification_evaluation" + (f"_{name}" if name else "") + "_results.csv"

    @classmethod
    def from_input_examples(cls, examples: Sequence[Any], **kwargs: Any) -> Self:
        """From examples that have `texts` and a `label`."""
        first, second = ([example.texts[side] for example in examples] for side in (0, 1))
        return cls(first, second, [example.label for example in examples], **kwargs)

    def measure(self, model: Any) -> dict[str, float]:
        """`{similarity}_{metric}`, and `max_{metric}` where several similarities are measured."""
        count = len(self.labels)
        # Together, so that an item on both sides is encoded once.
        embeddings = self.embed_inputs(model, [*self.sentences1, *self.sentences2])
        labels = torch.tensor(self.labels)
        names = self.similarity_fn_names or [model.similarity_fn_name]
        metrics: dict[str, float] = {}
        for name in names:
            similarity = SimilarityFunction.to_similarity_pairwise_fn(name)
            found = binary_metrics(similarity(embeddings[:count], embeddings[count:]).cpu(), labels)
            if name in _DISTANCES:
                found |= {key: -value for key, value in found.items() if key.endswith("threshold")}
            metrics |= {f"{name}_{key}": value for key, value in found.items()}
        if len(names) > 1:
            metrics |= {f"max_{key}": max(metrics[f"{name}_{key}"] for name in names) for key in found}
        return metrics

    def choose_primary(self, metrics: Mapping[str, float]) -> str:
        """Average precision: the best one, where several similarities are measured."""
        return "max_ap" if "max_ap" in metrics else next(key for key in metrics if key.endswith("_ap"))

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Columns such as `cosine_f1`, by similarity."""
        names: Sequence[str] = [key.removesuffix("_ap") for key in metrics if key.endswith("_ap") and key != "max_ap"]
        return {f"{name}_{column}": metrics[f"{name}_{column}"] for name in names for column in _COLUMNS}
