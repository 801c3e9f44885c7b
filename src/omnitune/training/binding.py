"""Losses and the model they train: built, bound to it, given the run's memory budget, and asked about negatives."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from omnitune.data.columns import input_columns, label_column
from omnitune.errors import InputError
from omnitune.losses import Loss, Strategy
from omnitune.model.base import Model
from omnitune.modules.router import Router
from omnitune.report.facts import DatasetFacts, TrainingFacts

logger = logging.getLogger(__name__)

MODALITIES = {"text", "image", "audio", "video", "message"}
"""Names of routes that an input's modality chooses."""

LossLike = nn.Module | Callable[[Any], nn.Module]
Losses = nn.Module | dict[str, nn.Module]


class Trainable(nn.Module):
    """Losses and model as one module, so that an optimizer finds the parameters of both."""

    def __init__(self, losses: Losses, model: nn.Module) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses.values() if isinstance(losses, dict) else [losses])
        self.model = model


def bind(loss: LossLike, model: Model, activation_memory: str | int | float) -> nn.Module:
    """The loss, on the model's device and holding this model.

    Args:
        loss: A loss, or a function that makes one for a model.
        model: The model that is trained; it takes the place of another that the loss was made with.
        activation_memory: Budget of kept graphs for losses that did not set their own.
    """
    bound = loss if isinstance(loss, nn.Module) else loss(model)
    for part in parts(bound):
        held = getattr(part, "model", None)
        if isinstance(held, Model) and held is not model:
            logger.warning("loss: %s held another model than the trainer's; it now holds the trainer's.", _name(part))
            part.model = model
        strategy = getattr(part, "strategy", None)
        if isinstance(strategy, Strategy) and strategy.activation_memory is None:
            strategy.activation_memory = activation_memory
    return bound.to(model.device)


def bind_all(
    loss: LossLike | Mapping[str, LossLike],
    datasets: Mapping[str, Sequence[str | None]],
    model: Model,
    activation_memory: str | int | float,
) -> Losses:
    """The loss of all datasets, or one a dataset, bound to the model.

    Args:
        loss: One, or several by the name of their dataset.
        datasets: Names of the datasets by the argument that they came in; None for a single one.
        model: The model that is trained.
        activation_memory: See `bind`.

    Raises:
        InputError: A dataset has no loss, or a loss no dataset.
    """
    if not isinstance(loss, Mapping):
        return bind(loss, model, activation_memory)
    for argument, names in datasets.items():
        missing = [name for name in names if name not in loss]
        if missing:
            raise InputError(f"loss: expected a loss for every dataset of {argument}, got none for {missing}")
    known = sorted({str(name) for names in datasets.values() for name in names})
    unknown = sorted(set(loss) - set(known))
    if unknown:
        raise InputError(f"loss: expected losses for the datasets {known} alone, got some for {unknown} too")
    return {name: bind(one, model, activation_memory) for name, one in loss.items()}


def parts(loss: nn.Module) -> Iterator[nn.Module]:
    """The loss and the losses within it, without the models that they hold."""
    yield loss
    for child in loss.children():
        if not isinstance(child, Model):
            yield from parts(child)


def check_routes(model: Model, router_mapping: Mapping[str, Any]) -> None:
    """Raise unless a model that routes by task is told the routes of the columns.

    Raises:
        InputError: It has a `Router` that modalities alone do not decide, and there is no `router_mapping`.
    """
    for router in (m for m in model.children() if isinstance(m, Router)):
        by_modality = any(kind is not None for _, kind in router.route_mappings) or MODALITIES & set(router.sub_modules)
        if not by_modality and not router_mapping:
            raise InputError(
                f"router_mapping: expected a route out of {list(router.sub_modules)} for every column, because the "
                'model has a Router; got none. For example {"question": "query", "answer": "document"}'
            )


def own_state(losses: Losses, model: nn.Module) -> dict[str, Tensor]:
    """Collect what a loss has learnt beside the model: its own trained parameters and its buffers, by name."""
    known = {id(t) for t in (*model.parameters(), *model.buffers())}
    named = losses if isinstance(losses, dict) else {"": losses}
    state = {}
    for key, loss in named.items():
        known |= {id(p) for p in loss.parameters() if not p.requires_grad}
        for name, tensor in loss.state_dict(keep_vars=True).items():
            if id(tensor) not in known:
                known.add(id(tensor))  # one name is enough for weights that are tied
                state[f"{key}.{name}" if key else name] = tensor
    return state


def for_dataset(losses: Losses, dataset: str | None) -> nn.Module:
    """The loss of one dataset.

    Raises:
        InputError: Losses are given by dataset, and none for this one.
    """
    if not isinstance(losses, dict):
        return losses
    if dataset not in losses:
        raise InputError(f"loss: expected a loss for every dataset, got them for {sorted(losses)} and not {dataset!r}")
    return losses[dataset]


def negatives(
    losses: Losses, datasets: Mapping[str | None, Sequence[str]], batch_size: int, accumulation: int
) -> list[str]:
    """Count the negatives that each query meets in a step, a line a dataset, for losses that take them from the batch.

    Warns where gradients are accumulated, which does not add negatives.

    Args:
        losses: The losses.
        datasets: Input columns of every training dataset by its name.
        batch_size: Rows of one forward on one device.
        accumulation: Batches whose gradients are added up.
    """
    lines = []
    for name, columns in datasets.items():
        loss = for_dataset(losses, name)
        count = loss.negatives_per_query(batch_size, len(columns)) if isinstance(loss, Loss) else None
        if count is None:
            continue
        which = "" if name is None else f" of dataset {name!r}"
        lines.append(
            f"Each query{which} sees {count:,} negatives (batch of {batch_size}, columns {', '.join(columns)})."
        )
        if accumulation > 1:
            logger.warning(
                "gradient_accumulation_steps=%d adds no negatives: each query%s still sees %d, those of one batch of "
                "%d. For more, raise per_device_train_batch_size; a Cached loss holds its memory down.",
                accumulation, which, count, batch_size,
            )  # fmt: skip
    return lines


def set_rate(optimizer: torch.optim.Optimizer, trainable: Trainable, pattern: str, rate: float) -> None:
    """Move the parameters whose name a regular expression finds into groups with another learning rate.

    Names are those in the loss: `model.0...` for the model's parameters.

    Raises:
        InputError: No trained parameter has such a name.
    """
    named = ((re.sub(r"^losses\.\d+\.", "", name), p) for name, p in trainable.named_parameters() if p.requires_grad)
    chosen = {id(p) for name, p in named if re.search(pattern, name)}
    if not chosen:
        raise InputError(f"learning_rate_mapping: expected patterns that find a trained parameter, got {pattern!r}")
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in chosen]
        if moved:
            group["params"] = [p for p in group["params"] if id(p) not in chosen]
            rest = {key: value for key, value in group.items() if key not in ("params", "lr")}
            optimizer.add_param_group({**rest, "params": moved, "lr": rate})


def describe(losses: Losses, datasets: Mapping[str, Mapping[str | None, Any]], labels: Sequence[str]) -> TrainingFacts:
    """Describe datasets and losses for the model card.

    Args:
        losses: The losses.
        datasets: Datasets by kind ("training", "evaluation") and name.
        labels: Names that label columns may have.
    """
    facts = TrainingFacts()
    for kind, by_name in datasets.items():
        for name, dataset in by_name.items():
            loss = for_dataset(losses, name)
            config: Any = getattr(loss, "get_config_dict", dict)
            facts.datasets.append(
                DatasetFacts(
                    name=name,
                    kind=kind,
                    rows=len(dataset) if hasattr(dataset, "__len__") else None,
                    columns=input_columns(dataset.column_names, labels),
                    label=label_column(dataset.column_names, labels),
                    loss=_name(loss),
                    loss_config=config(),
                )
            )
            cited = ((_name(part), getattr(part, "citation", "")) for part in parts(loss))
            facts.citations.update({who: text for who, text in cited if text})
    return facts


def _name(module: nn.Module) -> str:
    return type(module).__name__
