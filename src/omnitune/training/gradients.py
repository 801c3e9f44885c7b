"""Average gradients over ranks, once an optimizer step; and start from the same weights.

Losses encode on the model itself and not on its distributed wrapper, because a step has many forwards and some of their
backwards run inside another backward; so the wrapper's own reduction never starts, and this takes its place.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed
from torch import Tensor, nn

BUCKET_BYTES = 32 * 2**20
"""Gradients that travel together."""


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over all ranks; without a process group, leave them.

    A parameter that no rank has a gradient for keeps None; one that some ranks lack counts as zero there. Those that
    are sharded (FSDP2) are left as they are: their gradients were averaged when each rank got its part.

    Args:
        parameters: The same parameters in the same order on all ranks.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
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
    world = torch.distributed.get_world_size()
    for bucket in _buckets(gradients):
        flat = torch.cat([g.reshape(-1) for g in bucket]).div_(world)
        torch.distributed.all_reduce(flat)
        for gradient, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def start_alike(module: nn.Module) -> None:
    """Copy rank zero's parameters and buffers to all ranks; what is sharded is one already.

    Args:
        module: Of the same parameters in the same order on all ranks; a loss's own are drawn at random on each.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
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
