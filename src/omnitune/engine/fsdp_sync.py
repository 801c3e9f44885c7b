"""A model whose weights are sharded over ranks (FSDP2): every forward gathers them, so all ranks make it together.

So all ranks must make equally many forwards of every kind, in the same order, whatever they have to encode: one that
has less repeats a small mini-batch whose results nobody uses. Kinds are modality and role, which decide what modules
run; conversations of which some hold images and others none are one kind, and must not be mixed.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed import is_initialized

from omnitune.engine.protocol import HasModules
from omnitune.errors import InputError
from omnitune.ops.collectives import exchanged
from omnitune.types import MiniBatch

FILLER = -1
"""Place of a mini-batch that is run for the other ranks' sake alone."""

Sharded = TypeVar("Sharded", bound=nn.Module)

Kind = tuple[Any, str | None]


def is_sharded(model: HasModules) -> bool:
    """Tell whether some of the weights are sharded."""
    if not (torch.distributed.is_available() and is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def shard(model: Sharded, blocks: Sequence[str] | None = None, *, reshard_after_forward: bool = True) -> Sharded:
    """Shard a model's weights over all ranks, in place: each transformer block, and the rest.

    Args:
        model: On every rank the same.
        blocks: Class names of what is gathered at a time; None takes those that its backbones name.
        reshard_after_forward: Whether a block is gathered again for its backward, and not held until then.

    Raises:
        InputError: No module is of such a class, or torch cannot shard on CPUs.
    """
    if next(model.parameters()).is_cpu and not hasattr(torch.cpu.Stream, "record_event"):
        raise InputError(f"fsdp: expected a GPU, as torch {torch.__version__} shards on no CPU; install a newer torch")
    from torch.distributed.fsdp import fully_shard

    wanted = set(blocks or ())
    for module in model.modules() if blocks is None else ():
        wanted |= set(getattr(module, "_no_split_modules", None) or ())
    chosen = [module for module in model.modules() if type(module).__name__ in wanted]
    if not chosen:
        raise InputError(f"blocks: expected class names of modules of the model, got {sorted(wanted)}; name its blocks")
    for module in reversed(chosen):  # what is inside first
        fully_shard(module, reshard_after_forward=reshard_after_forward)
    fully_shard(model)
    return model


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within this context rank zero's weights are whole, on the CPU, to be read; all ranks must enter it together."""
    if not is_sharded(model):
        yield
        return
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    everything: Any = ((m, name, p) for m in model.modules() for name, p in m._parameters.items())
    held = [(module, name, p) for module, name, p in everything if isinstance(p, DTensor)]
    full: dict[int, nn.Parameter] = {}
    for _, _, parameter in held:
        if id(parameter) not in full:
            gathered = parameter.full_tensor()
            if torch.distributed.get_rank() == 0:
                full[id(parameter)] = nn.Parameter(gathered.detach().cpu(), parameter.requires_grad)
    try:
        for module, name, parameter in held:
            module._parameters[name] = full.get(id(parameter), parameter)
        yield
    finally:
        for module, name, parameter in held:
            module._parameters[name] = parameter


def in_step(mini_batches: Sequence[MiniBatch]) -> list[tuple[int, MiniBatch]]:
    """List the forwards of this rank so that all ranks run equally many of every kind, in the same order.

    Args:
        mini_batches: What it has to run, possibly nothing.

    Returns:
        Each with its place in `mini_batches`, or `FILLER`.
    """
    own: dict[Kind, list[int]] = {}
    for place, one in enumerate(mini_batches):
        own.setdefault((one.modality, one.role), []).append(place)
    known: list[dict[Kind, int]] = exchanged({kind: len(places) for kind, places in own.items()})
    most = {kind: max(counts.get(kind, 0) for counts in known) for counts in known for kind in counts}
    lacking = {kind for kind in most if any(kind not in counts for counts in known)}
    fillers = {kind: _small(mini_batches[places[-1]]) for kind, places in own.items()}
    if lacking:
        offered = exchanged({kind: filler for kind, filler in fillers.items() if kind in lacking})
        for part in offered:
            fillers = {**part, **fillers}
    steps: list[tuple[int, MiniBatch]] = []
    for kind in sorted(most, key=repr):
        places = own.get(kind, [])
        steps += [(place, mini_batches[place]) for place in places]
        steps += [(FILLER, fillers[kind])] * (most[kind] - len(places))
    return steps


def _small(one: MiniBatch) -> MiniBatch:
    """Its last item, which is its cheapest, alone."""
    cost = one.cost // len(one.items)
    return dataclasses.replace(one, items=one.items[-1:], places=one.places[-1:], keys=one.keys[-1:], cost=cost)
