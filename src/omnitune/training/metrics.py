"""Metrics of a training run: named parts of its loss, an evaluator on one process or on all ranks, the best one."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.distributed
from torch import Tensor

from omnitune.engine.distributed_eval import Ranks, sharing
from omnitune.errors import InputError
from omnitune.evaluation.base import BaseEvaluator
from omnitune.evaluation.sequential import SequentialEvaluator
from omnitune.model.base import Model
from omnitune.ops.collectives import exchanged, world_size

logger = logging.getLogger(__name__)


def measure(evaluator: Any, model: Model, folder: Path, *, epoch: float | None, steps: int) -> dict[str, float]:
    """Metrics of the model, the same on every rank.

    With several ranks, an evaluator that has a `measure` runs on all of them and each encodes its share; another runs
    on rank zero alone. Only rank zero writes. When one rank fails, all do.

    Args:
        evaluator: Called with the model, the folder, epoch and steps.
        model: What is measured.
        folder: Of the evaluator's files; made when missing.
        epoch: Of the run.
        steps: Of the run.

    Raises:
        ResourceError: Another rank failed; says which, and why.
        InputError: Weights are sharded, and the evaluator is none that all ranks can run.
    """
    if world_size() == 1:
        return _called(evaluator, model, folder, epoch, steps)
    first = torch.distributed.get_rank() == 0
    if model.engine.sharded and not getattr(evaluator, "every_rank", False):
        raise InputError(
            f"evaluator: expected one that has a measure(model), as every rank must encode with sharded weights, got "
            f"{type(evaluator).__name__}"
        )
    if getattr(evaluator, "every_rank", False):
        with sharing(model.engine) as ranks:
            own = _called(evaluator, model, folder, epoch, steps) if first else evaluator.measure(model)
            return _of_first(ranks, own)
    ranks = Ranks()
    try:
        own = _called(evaluator, model, folder, epoch, steps) if first else {}
    except BaseException as error:
        ranks.fail(error)
        raise
    return _of_first(ranks, own)


def _of_first(ranks: Ranks, own: dict[str, float]) -> dict[str, float]:
    found: dict[str, float] = ranks.finish(own)[0]
    return found


def _called(evaluator: Any, model: Model, folder: Path, epoch: float | None, steps: int) -> dict[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    found = evaluator(model, output_path=str(folder), epoch=epoch, steps=steps)
    return found if isinstance(found, dict) else {"evaluator": found}


class LossParts:
    """Sums of named loss parts since they were last taken, for training and for evaluation apart."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Tensor]] = {"train": {}, "eval": {}}
        self._steps = {"train": 0, "eval": 0}

    def add(self, mode: str, parts: dict[str, Tensor], *, skip_nan: bool) -> None:
        """Add the parts of one step.

        Args:
            mode: `"train"` or `"eval"`.
            parts: Scalars by name.
            skip_nan: Count the mean so far in place of a part that is not finite.
        """
        sums, steps = self._sums[mode], self._steps[mode]
        for name, part in parts.items():
            value = part.detach()
            if skip_nan:
                mean = sums[name] / steps if steps and name in sums else torch.zeros_like(value)
                value = torch.where(torch.isfinite(value), value, mean)
            sums[name] = sums[name] + value if name in sums else value
        self._steps[mode] += 1

    def take(self, mode: str) -> dict[str, float]:
        """Mean of every part over the steps of all ranks since the last call; parts add up to the loss."""
        local = ({name: float(value) for name, value in self._sums[mode].items()}, self._steps[mode])
        self._sums[mode], self._steps[mode] = {}, 0
        ranks = exchanged(local)
        steps = sum(count for _, count in ranks)
        names = list(dict.fromkeys(name for sums, _ in ranks for name in sums))
        return {name: sum(sums.get(name, 0.0) for sums, _ in ranks) / steps for name in names}


def check_best_metric(metric: str, eval_datasets: Sequence[str | None], evaluator: Any, model: Any) -> None:
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
