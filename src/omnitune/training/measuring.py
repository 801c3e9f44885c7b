"""Running an evaluator within a training run, on one process or on all ranks together."""

from pathlib import Path
from typing import Any

import torch.distributed

from omnitune.engine.distributed_eval import Ranks, sharing
from omnitune.errors import InputError
from omnitune.model.base import Model
from omnitune.ops.collectives import world_size


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
