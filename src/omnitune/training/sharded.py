"""Training with sharded weights: what `fsdp=True` in the arguments asks for, done here and not by accelerate.

A step has many forwards, some within a backward, that all ranks make together (`engine.fsdp_sync`), of which
accelerate's wrapper would see none. The model is sharded in place with `torch.distributed.fsdp.fully_shard`, on any
backend.
"""

from typing import Any

import torch.distributed

from omnitune.engine.fsdp_sync import shard
from omnitune.errors import InputError
from omnitune.model.base import Model
from omnitune.training.arguments import BaseTrainingArguments

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
