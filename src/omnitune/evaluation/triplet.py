"""Accuracy of triplets: an anchor closer to its positive than to its negative."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.evaluation.base import BaseEvaluator, check_inputs, moment, similarity_name
from omnitune.ops.metrics import expect_numbers
from omnitune.ops.similarity import SimilarityFunction

logger = logging.getLogger(__name__)


class TripletEvaluator(BaseEvaluator):
    """Share of triplets with `similarity(anchor, positive) > similarity(anchor, negative) + margin`.

    Anchors are encoded as queries, positives and negatives as documents.

    Args:
        anchors: Queries.
        positives: A relevant document for each anchor.
        negatives: An irrelevant document for each anchor.
        main_similarity_function: Similarity that the primary metric belongs to.
        margin: By how much the positive has to be closer: one number, or one per similarity; 0 by default.
        name, batch_size, write_csv, truncate_dim: As in `EmbeddingEvaluator`.
        show_progress_bar: Whether to show progress; None shows it at log level INFO or lower.
        similarity_fn_names: Similarities to measure; the model's own by default.
        main_distance_function: Former name of `main_similarity_function`.

    Raises:
        ShapeError: Anchors, positives and negatives differ in number, or there are none.
        InputError: A similarity is unknown.

    Example:
        >>> evaluator = TripletEvaluator(anchors=["How hot is the oven?"], positives=[pages[1]], negatives=[pages[0]])
        >>> evaluator(model)["cosine_accuracy"]
        1.0
    """

    def __init__(
        self,
        anchors: Sequence[Any],
        positives: Sequence[Any],
        negatives: Sequence[Any],
        main_similarity_function: str | SimilarityFunction | None = None,
        margin: float | dict[str, float] | None = None,
        name: str = "",
        batch_size: int = 16,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
        similarity_fn_names: list[Literal["cosine", "dot", "euclidean", "manhattan"]] | None = None,
        main_distance_function: str | SimilarityFunction | None = "deprecated",
    ) -> None:
        super().__init__()
        check_inputs(anchors=anchors, positives=positives, negatives=negatives)
        if not len(anchors) == len(positives) == len(negatives) or not len(anchors):
            raise ShapeError(
                "anchors, positives, negatives: expected equally many, and at least one of each, "
                f"got {len(anchors)}, {len(positives)} and {len(negatives)}"
            )
        if main_distance_function != "deprecated" and main_similarity_function is None:
            logger.warning("main_distance_function is called main_similarity_function now")
            main_similarity_function = main_distance_function
        self.anchors = anchors
        self.positives = positives
        self.negatives = negatives
        self.main_similarity_function = similarity_name(main_similarity_function)
        main = [self.main_similarity_function] if self.main_similarity_function else []
        self.similarity_fn_names: list[str] = [similarity_name(fn) or "" for fn in similarity_fn_names or main]
        names = SimilarityFunction.possible_values()
        given = margin if isinstance(margin, dict) else dict.fromkeys(names, margin or 0)
        if unknown := sorted(set(given) - set(names)):
            raise InputError(f"margin: expected similarities among {', '.join(names)}, got {', '.join(unknown)}")
        self.margin: dict[str, float] = {**dict.fromkeys(names, 0), **given}
        self.name = name
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "triplet_evaluation" + (f"_{name}" if name else "") + "_results.csv"

    @classmethod
    def from_input_examples(cls, examples: Sequence[Any], **kwargs: Any) -> Self:
        """From examples that have `texts` and a `label`."""
        anchors, positives, negatives = ([example.texts[side] for example in examples] for side in range(3))
        return cls(anchors, positives, negatives, **kwargs)

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measure the model, record the results, and return them as `{"{name}_{similarity}_accuracy": ...}`."""
        metrics = self.measure(model)
        when = moment(epoch, steps, self.truncate_dim)
        logger.info("Triplets of %s%s: %s", self.name or "the evaluator", when, metrics)
        return self.record(model, metrics, output_path, epoch, steps)

    def measure(self, model: Any) -> dict[str, float]:
        """`{"{similarity}_accuracy": ...}`, and `max_accuracy` where several similarities are measured."""
        anchors = self.embed_inputs(model, self.anchors, "query")
        positives = self.embed_inputs(model, self.positives, "document")
        negatives = self.embed_inputs(model, self.negatives, "document")
        for embeddings in (anchors, positives, negatives):
            expect_numbers(embeddings, "embeddings")
        metrics = {}
        for name in self.similarity_fn_names or [model.similarity_fn_name]:
            similarity = SimilarityFunction.to_similarity_pairwise_fn(name)
            closer: Tensor = similarity(anchors, positives) > similarity(anchors, negatives) + self.margin[name]
            metrics[f"{name}_accuracy"] = closer.float().mean().item()
        if len(metrics) > 1:
            metrics["max_accuracy"] = max(metrics.values())
        return metrics

    def embed_inputs(
        self, model: Any, sentences: Sequence[Any], encode_fn_name: str | None = None, **kwargs: Any
    ) -> Any:
        """Embeddings `(items, dim)`; `encode_fn_name` is `"query"`, `"document"`, or None for neither."""
        encode = model.encode if encode_fn_name is None else getattr(model, f"encode_{encode_fn_name}")
        return encode(
            sentences,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_numpy=True,
            truncate_dim=self.truncate_dim,
            **kwargs,
        )

    def choose_primary(self, metrics: Mapping[str, float]) -> str:
        """The main similarity's accuracy, else the best one."""
        if self.main_similarity_function:
            return f"{self.main_similarity_function}_accuracy"
        return "max_accuracy" if "max_accuracy" in metrics else next(iter(metrics))

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Columns such as `accuracy_cosine`."""
        return {
            f"accuracy_{key.removesuffix('_accuracy')}": value
            for key, value in metrics.items()
            if key != "max_accuracy"
        }

    def get_config_dict(self) -> dict[str, Any]:
        """Margins and truncation, where set."""
        # ST writes the dense similarities alone.
        margins = {name: margin for name, margin in self.margin.items() if "maxsim" not in name}
        config: dict[str, Any] = {"margin": margins} if any(margins.values()) else {}
        return config if self.truncate_dim is None else {**config, "truncate_dim": self.truncate_dim}
