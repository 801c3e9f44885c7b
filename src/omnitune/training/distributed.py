"""A run on several ranks: the same weights at its start, averaged gradients once a step, sharded weights.

Losses encode on the model itself and not on its distributed wrapper, because a step has many forwards and some of their
backwards run inside another backward; so the wrapper's own reduction never starts, and this takes its place. For the
same reason `fsdp=True` in the arguments is done here and not by accelerate: its wrapper would see none of the forwards,
which all ranks make together (`engine.fsdp_sync`). The model is sharded in place with
`torch.distributed.fsdp.fully_shard`, on any backend.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from omnitune.engine.fsdp_sync import shard
from omnitune.errors import InputError
from omnitune.model.base import Model
from omnitune.ops.collectives import world_size
from omnitune.training.arguments import BaseTrainingArguments

BUCKET_BYTES = 32 * 2**20
"""Gradients that travel together."""


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over all ranks; without a process group, leave them.

    A parameter that no rank has a gradient for keeps None; one that some ranks lack counts as zero there. Those that
    are sharded (FSDP2) are left as they are: their gradients were averaged when each rank got its part.

    Args:
        parameters: The same parameters in the same order on all ranks.
    """
    if world_size() == 1:
        return
    trained = [p for p in parameters if p.requires_grad and not hasattr(p, "full_tensor")]
    if not trained:
        return
    present = torch.tensor([p.grad is not None for p in trained], dtype=torch.int32, device=trained[0].device)
    torch.distributed.all_reduce(present, op=torch.distributed.ReduceOp.MAX)
    gradients = []
    for parameter, used in zip(trained, present.tolist(), strict=True):
        if used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([g.reshape(-1) for g in bucket]).div_(world_size())
        torch.distributed.all_reduce(flat)
        for gradient, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def start_alike(module: nn.Module) -> None:
    """Copy rank zero's parameters and buffers to all ranks; what is sharded is one already.

    Args:
        module: Of the same parameters in the same order on all ranks; a loss's own are drawn at random on each.
    """
    if world_size() == 1:
        return
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if not hasattr(tensor, "full_tensor"):
                same = tensor.detach().contiguous()
                torch.distributed.broadcast(same, src=0)
                tensor.copy_(same)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one dtype, up to `BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bytes_ = gradient.numel() * gradient.element_size()
        if bucket and (size + bytes_ > BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += bytes_
    if bucket:
        yield bucket


ACCEPTED: dict[str, tuple[Any, ...]] = {
    "version": (2,),
    "state_dict_type": ("FULL_STATE_DICT",),
    "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP",),
    "reshard_after_forward": (True, False),
}
"""Keys of `fsdp_config` and the values that they may have; others may not ask for anything."""

BLOCKS = "transformer_layer_cls_to_wrap"
"""Key of the class names of what is gathered at a time; by default what the backbones name."""


def shard_as_asked(model: Model | None, args: BaseTrainingArguments) -> None:
    """Shard the model where the arguments say so, and keep accelerate from doing it.

    Raises:
        InputError: There is no process group, no model yet, or something is asked for that is not supported.
    """
    if not args.fsdp:
        return
    config = args.fsdp_config
    for name, value in config.items():
        if name != BLOCKS and value and value not in ACCEPTED.get(name, ()):
            raise InputError(f"fsdp_config: expected {name!r} to be {ACCEPTED.get(name, 'left out')}, got {value!r}")
    if model is None:
        raise InputError("fsdp: expected a model, got model_init; make the model first")
    if not torch.distributed.is_initialized():
        raise InputError("fsdp: expected several processes, got one; start the run with torchrun")
    if args.load_best_model_at_end:
        raise InputError(
            "load_best_model_at_end: expected False with sharded weights, got True; load the best checkpoint afterwards"
        )
    args.fsdp_plugin_args = None
    if not model.engine.sharded:
        model.to(args.device)
        shard(model, config.get(BLOCKS), reshard_after_forward=config.get("reshard_after_forward", True))


def keep_unwrapped(trainer: Any) -> None:
    """See that a trainer's model is its own, wrapped by no launcher.

    Raises:
        InputError: A launcher asked for DeepSpeed, or for accelerate's own FSDP.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise InputError(
            "deepspeed, fsdp: expected torchrun, got a launcher that wraps the model and cannot follow the several "
            "forwards of one step; for sharded weights set fsdp=True in the arguments"
        )
