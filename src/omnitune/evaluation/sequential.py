"""Several evaluators as one."""

from collections.abc import Callable, Iterable
from typing import Any

from omnitune.errors import InputError
from omnitune.evaluation.base import BaseEvaluator


def last(scores: list[float]) -> float:
    """The last score."""
    return scores[-1]


class SequentialEvaluator(BaseEvaluator):
    """Runs evaluators one after another and returns the metrics of all.

    Args:
        evaluators: The evaluators; their names keep their metrics apart.
        main_score_function: Makes one number, `sequential_score`, of the primary metrics in order; the last by default.

    Raises:
        InputError: There are no evaluators.

    Example:
        >>> from omnitune.evaluation import TranslationEvaluator, TripletEvaluator
        >>> triplets = TripletEvaluator(["How hot is the oven?"], [pages[1]], [pages[0]], name="dev")
        >>> languages = TranslationEvaluator(["radio", "hotel"], ["Radio", "Hotel"], name="en-de")
        >>> results = SequentialEvaluator([triplets, languages], main_score_function=min)(model)
        >>> results["dev_cosine_accuracy"], results["sequential_score"]
        (1.0, 1.0)
    """

    def __init__(
        self, evaluators: Iterable[BaseEvaluator], main_score_function: Callable[[list[float]], float] = last
    ) -> None:
        super().__init__()
        self.evaluators = list(evaluators)
        if not self.evaluators:
            raise InputError("evaluators: expected at least one, got none")
        self.main_score_function = main_score_function
        self.primary_metric = "sequential_score"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Run every evaluator with these arguments.

        Returns:
            All metrics, and `sequential_score`.

        Raises:
            InputError: Two evaluators return a metric of the same name.
        """
        results: dict[str, float] = {}
        owners: dict[str, int] = {}
        scores = []
        for index, evaluator in enumerate(self.evaluators):
            metrics = evaluator(model, output_path, epoch, steps)
            if not isinstance(metrics, dict):
                metrics = {f"evaluator_{index}": metrics}
            primary = getattr(evaluator, "primary_metric", None)
            scores.append(next(iter(metrics.values())) if primary is None else metrics[primary])
            for key, value in metrics.items():
                if key == "sequential_score":
                    continue
                if key in owners:
                    raise InputError(
                        f"evaluators: expected metrics of different names, but {self._called(owners[key])} and "
                        f"{self._called(index)} both return {key!r}; give them different names"
                    )
                owners[key] = index
                results[key] = value
        results["sequential_score"] = self.main_score_function(scores)
        return results

    def measure(self, model: Any) -> dict[str, float]:
        """All metrics, and `sequential_score`."""
        return self(model)

    @property
    def every_rank(self) -> bool:
        """Tell whether every one of the evaluators may."""
        return all(getattr(evaluator, "every_rank", False) for evaluator in self.evaluators)

    def _called(self, index: int) -> str:
        evaluator = self.evaluators[index]
        name = getattr(evaluator, "name", "")
        return f"number {index + 1} ({type(evaluator).__name__}" + (f" {name!r})" if name else ")")
