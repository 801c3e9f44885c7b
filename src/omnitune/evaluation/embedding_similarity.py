"""Agreement of the similarities of pairs with gold scores."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch

from omnitune.errors import ShapeError
from omnitune.evaluation.base import BaseEvaluator, check_inputs, check_numbers, moment, similarity_name
from omnitune.ops.metrics import expect_numbers, pearson, spearman
from omnitune.ops.quantize import Precision
from omnitune.ops.similarity import SimilarityFunction

logger = logging.getLogger(__name__)


class EmbeddingSimilarityEvaluator(BaseEvaluator):
    """Pearson and Spearman correlation of embedding similarities with gold scores.

    Args:
        sentences1: First item of every pair.
        sentences2: Second item of every pair.
        scores: Gold score of every pair, higher is more similar.
        batch_size, name, write_csv, truncate_dim: As in `EmbeddingEvaluator`.
        main_similarity: Similarity that the primary metric belongs to.
        similarity_fn_names: Similarities to measure; the model's own by default.
        show_progress_bar: Whether to show progress; None shows it at log level INFO or lower.
        precision: Precision that the embeddings are normalised and quantized to; None leaves them as they are.

    Raises:
        ShapeError: The two sides and the scores differ in number, or there are fewer than two pairs.
        InputError: A similarity is unknown, or a score is no number.

    Example:
        >>> first, second = ["grease it"] * 3, ["add grease", "heat it", "a red car"]
        >>> evaluator = EmbeddingSimilarityEvaluator(first, second, scores=[0.9, 0.4, 0.0])
        >>> round(evaluator(model)["spearman_cosine"], 2)
        1.0
    """

    def __init__(
        self,
        sentences1: list[str],
        sentences2: list[str],
        scores: list[float],
        batch_size: int = 16,
        main_similarity: str | SimilarityFunction | None = None,
        similarity_fn_names: list[Literal["cosine", "euclidean", "manhattan", "dot"]] | None = None,
        name: str = "",
        show_progress_bar: bool = False,
        write_csv: bool = True,
        precision: Precision | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_inputs(sentences1=sentences1, sentences2=sentences2)
        if not len(sentences1) == len(sentences2) == len(scores) or len(scores) < 2:
            raise ShapeError(
                "sentences1, sentences2, scores: expected equally many, and at least two of each, "
                f"got {len(sentences1)}, {len(sentences2)} and {len(scores)}"
            )
        check_numbers(scores, "scores")
        self.sentences1 = sentences1
        self.sentences2 = sentences2
        self.scores = scores
        self.batch_size = batch_size
        self.main_similarity = similarity_name(main_similarity)
        main = [self.main_similarity] if self.main_similarity else []
        self.similarity_fn_names: list[str] = [similarity_name(fn) or "" for fn in similarity_fn_names or main]
        self.name = name
        self.show_progress_bar = show_progress_bar
        self.write_csv = write_csv
        self.precision = precision
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(filter(None, ["similarity_evaluation", name, precision, "results.csv"]))

    @classmethod
    def from_input_examples(cls, examples: Sequence[Any], **kwargs: Any) -> Self:
        """From examples that have `texts` and a `label`."""
        first, second = ([example.texts[side] for example in examples] for side in (0, 1))
        return cls(first, second, [example.label for example in examples], **kwargs)

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measure the model, record the results, and return them as `{"{name}_spearman_{similarity}": ...}`."""
        metrics = self.measure(model)
        when = moment(epoch, steps, self.truncate_dim)
        logger.info("Similarity of pairs of %s%s: %s", self.name or "the evaluator", when, metrics)
        return self.record(model, metrics, output_path, epoch, steps)

    def measure(self, model: Any) -> dict[str, float]:
        """`pearson_{similarity}` and `spearman_{similarity}`, and the best of each where several are measured."""
        if self.precision in ("int8", "uint8"):
            # Together, so that equal items get equal ranges and equal integers.
            both = self.embed_inputs(model, [*self.sentences1, *self.sentences2])
            first, second = both[: len(self.sentences1)], both[len(self.sentences1) :]
        else:
            first, second = (self.embed_inputs(model, side) for side in (self.sentences1, self.sentences2))
        if self.precision in ("binary", "ubinary"):
            flip = np.uint8(128 if self.precision == "binary" else 0)
            first, second = (np.unpackbits(side.view(np.uint8) ^ flip, axis=1) for side in (first, second))
        gold = torch.tensor(self.scores, dtype=torch.float64)
        metrics = {}
        names = self.similarity_fn_names or [model.similarity_fn_name]
        for name in names:
            found = SimilarityFunction.to_similarity_pairwise_fn(name)(first, second)
            expect_numbers(found, "embeddings")
            metrics[f"pearson_{name}"] = pearson(gold, found)
            metrics[f"spearman_{name}"] = spearman(gold, found)
        if len(names) > 1:
            for kind in ("pearson", "spearman"):
                metrics[f"{kind}_max"] = max(metrics[f"{kind}_{name}"] for name in names)
        return metrics

    def embed_inputs(self, model: Any, sentences: Sequence[Any], **kwargs: Any) -> Any:
        """Embeddings `(items, dim)` at the evaluator's precision; a family with other embeddings overrides this."""
        return model.encode(
            sentences,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_numpy=True,
            precision=self.precision,
            normalize_embeddings=bool(self.precision),
            truncate_dim=self.truncate_dim,
            **kwargs,
        )

    def choose_primary(self, metrics: Mapping[str, float]) -> str:
        """Spearman correlation under the main similarity, else the best one."""
        if self.main_similarity:
            return f"spearman_{self.main_similarity}"
        return "spearman_max" if "spearman_max" in metrics else next(key for key in metrics if key.startswith("spear"))

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Columns such as `cosine_pearson`."""
        columns = {"_".join(reversed(key.split("_", 1))): value for key, value in metrics.items()}
        return {column: value for column, value in columns.items() if not column.startswith("max_")}

    @property
    def description(self) -> str:
        """Name of the evaluator in prose."""
        return "Semantic Similarity"

    def get_config_dict(self) -> dict[str, Any]:
        """Truncation and precision, where set."""
        keys = ("truncate_dim", "precision")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
