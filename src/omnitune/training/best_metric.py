"""Check of `metric_for_best_model` before the first evaluation, which may be hours away."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from omnitune.errors import InputError
from omnitune.evaluation.base import BaseEvaluator
from omnitune.evaluation.sequential import SequentialEvaluator

logger = logging.getLogger(__name__)


def check(metric: str, eval_datasets: Sequence[str | None], evaluator: Any, model: Any) -> None:
    """See that an evaluation will give a metric; a warning where that cannot be known.

    Args:
        metric: With or without "eval_" in front.
        eval_datasets: Names of the evaluation datasets; None for one without a name.
        evaluator: The run's evaluator, or None.
        model: What it will measure.

    Raises:
        InputError: No evaluation will give it.
    """
    wanted = metric.removeprefix("eval_")
    known = ["loss" if name is None else f"{name}_loss" for name in eval_datasets]
    open_ends = []
    for one in _leaves(evaluator):
        names = one.metric_names(model) if isinstance(one, BaseEvaluator) else None
        prefix = f"{one.name}_" if getattr(one, "name", "") else ""
        primary = [getattr(one, "primary_metric", None) or ""]
        known += [prefix + name.removeprefix(prefix) for name in names or primary if name]
        if names is None:
            open_ends.append(prefix)
    if isinstance(evaluator, SequentialEvaluator):
        known.append("sequential_score")
    if wanted in known:
        return
    told = ", ".join([*known, *(f"{prefix}..." for prefix in open_ends if prefix)])
    if not any(wanted.startswith(prefix) for prefix in open_ends):
        raise InputError(
            f"metric_for_best_model: expected one of {told}, got {metric!r}"
            + ("" if eval_datasets else "; there is no eval_dataset to take a loss of")
        )
    logger.warning(
        "metric_for_best_model: whether evaluations give %r is known after the first; surely they give: %s",
        metric, told or "nothing",
    )  # fmt: skip


def _leaves(evaluator: Any) -> Iterator[Any]:
    if isinstance(evaluator, SequentialEvaluator):
        for one in evaluator.evaluators:
            yield from _leaves(one)
    elif evaluator is not None:
        yield evaluator
