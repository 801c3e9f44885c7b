"""Distance of a student's embeddings from a teacher's."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune.errors import InputError, ShapeError
from omnitune.evaluation.base import EmbeddingEvaluator, check_inputs
from omnitune.ops.metrics import expect_numbers


class MSEEvaluator(EmbeddingEvaluator):
    """Mean squared error, times 100, between the model's embeddings of one side and the teacher's of the other.

    The teacher encodes when the evaluator is made.

    Args:
        source_sentences: What the teacher encodes.
        target_sentences: What the model encodes, for example translations.
        teacher_model: The teacher.
        show_progress_bar, batch_size, name, write_csv: As in `EmbeddingEvaluator`.
        truncate_dim: Dimensions to keep of every embedding; None keeps the models' own setting.

    Raises:
        ShapeError: The sides differ in number, or there are none.
        InputError: There is no teacher.

    Example:
        >>> evaluator = MSEEvaluator(["Grease the bearing."], ["Das Lager schmieren."], teacher_model=model)
        >>> round(evaluator(model)["negative_mse"], 2)
        -0.48
    """

    def __init__(
        self,
        source_sentences: list[str],
        target_sentences: list[str],
        teacher_model: Any = None,
        show_progress_bar: bool = False,
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        check_inputs(source_sentences=source_sentences, target_sentences=target_sentences)
        if len(source_sentences) != len(target_sentences) or not len(source_sentences):
            raise ShapeError(
                "source_sentences, target_sentences: expected equally many, and at least one of each, "
                f"got {len(source_sentences)} and {len(target_sentences)}"
            )
        if teacher_model is None:
            raise InputError("teacher_model: expected the model whose embeddings are right, got None")
        self.target_sentences = target_sentences
        self.show_progress_bar = show_progress_bar
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = f"mse_evaluation_{name}_results.csv"
        self.primary_metric = "negative_mse"
        self.source_embeddings = self.embed_inputs(teacher_model, source_sentences)
        expect_numbers(self.source_embeddings, "teacher_model's embeddings")

    def measure(self, model: Any) -> dict[str, float]:
        """`negative_mse`: minus 100 times the error, so that higher is better."""
        return {"negative_mse": -self.error(self.source_embeddings, self.embed_inputs(model, self.target_sentences))}

    def error(self, teacher: Any, student: Any) -> float:
        """100 times the mean squared difference of two `(items, dim)`; a family with other rows overrides this."""
        return _error(teacher, student)

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The column `MSE`, lower is better."""
        return {"MSE": -metrics["negative_mse"]}

    @property
    def description(self) -> str:
        """Name of the evaluator in prose."""
        return "Knowledge Distillation"


class MSEEvaluatorFromDataFrame(EmbeddingEvaluator):
    """`MSEEvaluator` over pairs of languages: the mean over pairs of what their rows give.

    Args:
        dataframe: Rows: language to sentence.
        teacher_model: Encodes the first language of every pair, when the evaluator is made.
        combinations: Pairs of languages; a row counts where both have a sentence.
        batch_size: Items a forward pass takes.
        name: Put before every metric.
        write_csv: Whether a call adds a row to the CSV file in its output folder, with a column for each pair.
        truncate_dim: Dimensions to keep of every embedding; None keeps the models' own setting.

    Raises:
        InputError: A pair of languages has no row.

    Example:
        >>> rows = [{"en": "Grease the bearing.", "de": "Das Lager schmieren."}]
        >>> evaluator = MSEEvaluatorFromDataFrame(rows, teacher_model=model, combinations=[("en", "de")])
        >>> round(evaluator(model)["negative_mse"], 2)
        -0.48
    """

    show_progress_bar = None

    def __init__(
        self,
        dataframe: list[dict[str, str]],
        teacher_model: Any,
        combinations: list[tuple[str, str]],
        batch_size: int = 8,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.combinations = combinations
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "mse_evaluation" + (f"_{name}" if name else "") + "_results.csv"
        self.primary_metric = "negative_mse"
        self.data: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
        for first, second in combinations:
            rows = ((row.get(first), row.get(second)) for row in dataframe)
            pairs = [(a, b) for a, b in rows if a and b and a.strip() and b.strip()]
            if not pairs:
                raise InputError(f"combinations: expected rows with both languages, got none for {(first, second)}")
            self.data[first, second] = ([a for a, _ in pairs], [b for _, b in pairs])
        sources = list(dict.fromkeys(text for texts, _ in self.data.values() for text in texts))
        self.teacher_embeddings = dict(zip(sources, self.embed_inputs(teacher_model, sources), strict=True))
        self._errors: dict[str, float] = {}

    def measure(self, model: Any) -> dict[str, float]:
        """`negative_mse`: minus 100 times the mean error of the pairs of languages."""
        self._errors = {
            f"{first}-{second}": _error(
                np.stack([self.teacher_embeddings[text] for text in sources]), self.embed_inputs(model, targets)
            )
            for (first, second), (sources, targets) in self.data.items()
        }
        return {"negative_mse": -float(np.mean(list(self._errors.values())))}

    def csv_row(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """A column for each pair of languages, such as `en-de`, lower is better."""
        del metrics
        return self._errors

    def get_config_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    @property
    def description(self) -> str:
        """Name of the evaluator in prose."""
        return "Knowledge Distillation"


def _error(teacher: Sequence[Any] | NDArray[Any], student: NDArray[Any]) -> float:
    """100 times the mean squared difference of two `(items, dim)`."""
    expect_numbers(student, "embeddings")
    return float(((np.asarray(teacher) - student) ** 2).mean() * 100)
