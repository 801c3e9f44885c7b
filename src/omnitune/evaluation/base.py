"""Base of evaluators: `measure(model)` returns numbers; calling the evaluator also records them.

`measure` neither writes nor remembers anything, so it can run on any model, any number of times, on any rank.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor

from omnitune.errors import InputError
from omnitune.ops.similarity import SimilarityFunction
from omnitune.renames import missing, refuse_overrides
from omnitune.report.records import append_csv

logger = logging.getLogger(__name__)


LEFT_OUT = {
    **dict.fromkeys(
        ("compute_metrices", "compute_metrices_batched", "compute_metrices_individual", "compute_metrics")
        + ("compute_metrics_batched", "compute_metrics_individual", "compute_all_metrics"),
        "use, or override, measure(model), which returns all metrics",
    ),
    **dict.fromkeys(
        ("find_best_acc_and_threshold", "find_best_f1_and_threshold"), "omnitune.ops.classification finds thresholds"
    ),
    "compute_dcg_at_k": "omnitune.ops.metrics has the metrics of a ranking",
    "get_corpus_id_ranks": "omnitune.evaluation.ranking ranks a corpus",
    "output_scores": "override record, which is given all metrics",
    "csv_headers": "override csv_row, which says what a row of the CSV file holds",
}
"""Names of Sentence Transformers' evaluators that are not here, and what takes their place."""


class Encoder(Protocol):
    """The public verbs of a model that evaluators use."""

    similarity_fn_name: Any

    def encode(self, inputs: Any, **options: Any) -> Any:
        """Embeddings `(rows, dim)`."""

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        """Embeddings of queries `(rows, dim)`."""

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        """Embeddings of documents `(rows, dim)`."""

    @property
    def similarity(self) -> Any:
        """Similarities of all pairs `(a, b)`."""


class BaseEvaluator:
    """Base of every evaluator: write `measure`, or `__call__` to control everything.

    Attributes:
        greater_is_better: Whether a higher primary metric is a better model.
        primary_metric: Key of the metric that ranks models; None until the first call where it depends on the model.
        name: Put before every metric.
        csv_file: File that calls add their row to, in the folder they are given.
        write_csv: Whether they do.

    Example:
        >>> class Spread(BaseEvaluator):
        ...     name = "pages"
        ...     def measure(self, model):
        ...         first, second = model.encode(pages)
        ...         return {"spread": round(1 - float(first @ second), 2)}
        >>> Spread()(model)
        {'pages_spread': 0.87}
    """

    name: str = ""
    csv_file: str = ""
    write_csv: bool = False

    def __init__(self) -> None:
        kind = type(self)
        own = kind.__call__ is not BaseEvaluator.__call__ or not str(kind.measure.__module__).startswith("omnitune.")
        if not own and kind.measure is not BaseEvaluator.measure:  # one of ours, with helpers that only ST would call
            refuse_overrides(kind, LEFT_OUT)
        self.greater_is_better = True
        self.primary_metric: str | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise missing(type(self).__name__, name, LEFT_OUT)

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> float | dict[str, float]:
        """Measure the model, record the results, and return them.

        Args:
            model: The model.
            output_path: Folder of the CSV file; None writes nothing.
            epoch: Epoch of the training run, -1 outside one.
            steps: Step within it, -1 at its end.

        Returns:
            Metrics by name, prefixed with the evaluator's name; or a single score.
        """
        metrics = self.measure(model)
        when = moment(epoch, steps, getattr(self, "truncate_dim", None))
        logger.info("%s of %s%s: %s", self.description, self.name or "the evaluator", when, metrics)
        return self.record(model, metrics, output_path, epoch, steps)

    def measure(self, model: Any) -> dict[str, float]:
        """Metrics of the model by their names without the evaluator's."""
        raise NotImplementedError(f"{type(self).__name__} needs a measure(model) that returns a dict of metrics")

    @property
    def every_rank(self) -> bool:
        """Tell whether all ranks of a distributed run may measure together, each encoding its share."""
        return type(self).measure is not BaseEvaluator.measure

    def metric_names(self, model: Any) -> list[str] | None:
        """Name what `measure` of `model` will return, or None where that is known only once it has run."""
        del model
        return None

    def choose_primary(self, metrics: Mapping[str, float]) -> str | None:
        """Choose the metric that ranks models, by its name without the evaluator's."""
        del metrics
        return self.primary_metric

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Column name to value of what the CSV file shows, in column order."""
        return dict(metrics)

    def record(
        self, model: Any, metrics: Mapping[str, float], output_path: str | None, epoch: int, steps: int
    ) -> dict[str, float]:
        """Write metrics to the CSV file and the model card, settle the primary one, return all under full names."""
        if output_path is not None and self.write_csv:
            row = {"epoch": epoch, "steps": steps, **self.csv_row(metrics)}
            append_csv(Path(output_path) / self.csv_file, row)
        self.primary_metric = self.choose_primary(metrics)
        named = self.prefix_name_to_metrics(dict(metrics), self.name)
        self.store_metrics_in_model_card_data(model, named, epoch, steps)
        return named

    def prefix_name_to_metrics(self, metrics: dict[str, Any], name: str) -> dict[str, Any]:
        """The metrics, floats unless they are texts, and the primary metric, with `name` and an underscore in front."""
        values = {key: value if isinstance(value, str) else float(value) for key, value in metrics.items()}
        if not name:
            return values
        if self.primary_metric is not None and not self.primary_metric.startswith(f"{name}_"):
            self.primary_metric = f"{name}_{self.primary_metric}"
        return {f"{name}_{key}": value for key, value in values.items()}

    def store_metrics_in_model_card_data(
        self, model: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0
    ) -> None:
        """Hand the metrics to the model's card, where it has one."""
        card = getattr(model, "model_card_data", None)
        if card is not None:
            card.set_evaluation_metrics(self, metrics, epoch, step)

    @property
    def description(self) -> str:
        """Name of the evaluator in prose: `TripletEvaluator` is "Triplet"."""
        name = re.sub("Evaluator.*", "", type(self).__name__)
        return re.sub("([a-z])([A-Z])", r"\1 \2", re.sub("^CE", "CrossEncoder", name))

    def get_config_dict(self) -> dict[str, Any]:
        """Settings that a reader of the model card should know."""
        return {}


class EmbeddingEvaluator(BaseEvaluator):
    """Base of evaluators that encode both sides alike, without saying which are queries.

    Attributes:
        name: Put before every metric.
        write_csv: Whether a call adds a row to the CSV file in its output folder.
        batch_size: Items a forward pass takes.
        show_progress_bar: Whether to show progress; None shows it on a terminal.
        truncate_dim: Dimensions to keep of every embedding; None keeps the model's own setting.
    """

    batch_size: int = 32
    show_progress_bar: bool | None = False
    truncate_dim: int | None = None

    def embed_inputs(self, model: Any, sentences: Sequence[Any], **kwargs: Any) -> Any:
        """Embeddings `(items, dim)`; a family with other embeddings overrides this."""
        return model.encode(
            sentences,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_numpy=True,
            truncate_dim=self.truncate_dim,
            **kwargs,
        )

    def get_config_dict(self) -> dict[str, Any]:
        """Truncation, where set."""
        return {} if self.truncate_dim is None else {"truncate_dim": self.truncate_dim}


def similarity_name(similarity: str | SimilarityFunction | None) -> str | None:
    """The name of a similarity function, checked; None stays None."""
    return None if similarity is None else str(SimilarityFunction(similarity).value)


def moment(epoch: int, steps: int, truncate_dim: int | None) -> str:
    """Say when in training an evaluation happens and on how many dimensions, for the log."""
    when = "" if epoch == -1 else f" after epoch {epoch}" if steps == -1 else f" in epoch {epoch} after {steps} steps"
    return when if truncate_dim is None else f"{when} (first {truncate_dim} dimensions)"


def check_inputs(**sides: Any) -> None:
    """See that arguments are lists of inputs: of one text, every letter would be an input.

    Raises:
        InputError: One is a text.
    """
    for argument, side in sides.items():
        if isinstance(side, str):
            raise InputError(f"{argument}: expected a list of inputs, got the text {side!r:.80}; give [{side!r:.80}]")


def check_numbers(values: Any, argument: str) -> None:
    """See that all of an argument's values are finite numbers.

    Raises:
        InputError: One is missing, no number, or not finite; says which.
    """
    for place, value in enumerate(values):
        if value is None:
            raise InputError(f"{argument}[{place}]: missing, got None")
        if not isinstance(value, int | float | np.number | np.bool_ | Tensor):
            raise InputError(f"{argument}[{place}]: expected a number, got {value!r:.80}")
        if not math.isfinite(value):
            raise InputError(f"{argument}[{place}]: expected a finite number, got {value}")
