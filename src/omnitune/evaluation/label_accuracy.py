"""Accuracy of a classifier on two embeddings."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from omnitune.errors import InputError
from omnitune.evaluation.base import BaseEvaluator


class LabelAccuracyEvaluator(BaseEvaluator):
    """Share of pairs whose class `softmax_model`, trained as a `SoftmaxLoss`, predicts from their embeddings.

    Args:
        dataloader: Gives batches of examples; its collate function is replaced by one that leaves them as they are. An
            example has `texts` and a `label`, or is a row: two items and their class, as a dict or a tuple.
        name: Put before every metric.
        softmax_model: A `SoftmaxLoss`: its `classify` gives outputs `(pairs, classes)` for two embeddings.
        write_csv: Whether a call adds a row to the CSV file in its output folder.

    Raises:
        InputError: There is no `softmax_model`.

    Example:
        >>> from omnitune.losses import SoftmaxLoss
        >>> loss = SoftmaxLoss(model, model.get_embedding_dimension(), num_labels=2)
        >>> rows = [("grease it", "add grease", 1), ("heat it", "a red car", 0)]
        >>> LabelAccuracyEvaluator(torch.utils.data.DataLoader(rows, batch_size=2), softmax_model=loss)(model)
        {'accuracy': ...}
    """

    def __init__(self, dataloader: Any, name: str = "", softmax_model: Any = None, write_csv: bool = True) -> None:
        super().__init__()
        if softmax_model is None:
            raise InputError("softmax_model: expected the SoftmaxLoss whose classifier to use, got None")
        self.dataloader = dataloader
        self.name = name
        self.softmax_model = softmax_model
        self.write_csv = write_csv
        self.csv_file = "accuracy_evaluation" + (f"_{name}" if name else "") + "_results.csv"
        self.primary_metric = "accuracy"

    def measure(self, model: Any) -> dict[str, float]:
        """`accuracy`, in [0, 1]."""
        self.dataloader.collate_fn = list
        right = total = 0
        for batch in self.dataloader:
            rows: list[Iterable[Any]] = [
                (*one.texts, one.label) if hasattr(one, "texts") else one.values() if isinstance(one, Mapping) else one
                for one in batch
            ]
            first, second, labels = zip(*rows, strict=True)
            vectors = [
                model.encode(list(side), convert_to_tensor=True, show_progress_bar=False) for side in (first, second)
            ]
            with torch.no_grad():
                predicted = self.softmax_model.classify(*vectors).argmax(dim=1)
            right += int((predicted.cpu() == torch.tensor(labels)).sum())
            total += len(labels)
        if not total:
            raise InputError("dataloader: expected at least one example, got none")
        return {"accuracy": right / total}
