"""Rows of all ranks on every rank, with gradients that find their way back.

With one process, or none of `torch.distributed` in use, gathering is the identity.
"""

import atexit
import gc
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakMethod

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from omnitune.types import Embeddings

__all__ = [
    "exchanged",
    "gather_columns",
    "gather_embeddings",
    "gather_rows",
    "leave_gloo_at_exit",
    "mean_over_ranks",
    "world_size",
]


def world_size() -> int:
    """Number of processes that train together; 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def exchanged(value: Any) -> list[Any]:
    """Exchange what every rank holds, by rank; every rank must call this.

    Args:
        value: Anything that pickles, small or in host memory.
    """
    if world_size() == 1:
        return [value]
    held: list[Any] = [None] * world_size()
    dist.all_gather_object(held, value)
    return held


def leave_gloo_at_exit(release: Callable[[], None]) -> None:
    """Leave a gloo process group before the interpreter ends; other backends end by themselves.

    Gloo's threads, when the interpreter takes them down, now and then abort a process whose work is done, and torchrun
    then reports a failed run. They live as long as anything that holds the group, such as a wrapped model, even after
    the group was left: so what holds it is released and collected first. (A wrapper in a reference cycle: 13 of 42 runs
    aborted without that, 0 of 60 with it.)

    Args:
        release: Method that gives up what its object holds of the group; not called once the object is gone.
    """
    if world_size() > 1 and dist.get_backend() == "gloo":
        _releases.append(WeakMethod(release))
        atexit.unregister(_leave)
        atexit.register(_leave)


_releases: list[WeakMethod[Callable[[], None]]] = []


def _leave() -> None:
    if not dist.is_initialized():
        return
    for reference in _releases:
        release = reference()
        if release is not None:
            release()
    gc.collect()
    dist.destroy_process_group()
    gc.collect()


def gather_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """Rows of every rank, in rank order; ranks may hold different numbers of them.

    The gradient of this rank's rows is the sum of what every rank's loss says about them. A trainer that averages
    gradients over ranks (DistributedDataParallel) then trains the mean of all losses.

    Args:
        tensor: `(rows, ...)`, the same on every rank but for `rows`; every rank must call this, and call backward.

    Returns:
        `(rows of all ranks, ...)`, and at which of them this rank's rows begin.
    """
    if world_size() == 1:
        return tensor, 0
    counts = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(tensor)], device=tensor.device))
    sizes = [int(count) for count in counts]
    return _GatherRows.apply(tensor, sizes), sum(sizes[: dist.get_rank()])


def mean_over_ranks(rows: Tensor) -> Tensor:
    """Mean over the rows of every rank, for a loss whose gradients are averaged over ranks afterwards.

    Its gradient is that of the mean over this rank's rows, so that the average over ranks is the gradient of one device
    with all rows. Where gradients are off it is the mean over this rank's rows, and no rank waits for another.

    Args:
        rows: `(rows, dim)`, of as many rows on every rank; every rank must call this.

    Returns:
        `(dim,)`.
    """
    own = rows.mean(dim=0)
    if world_size() == 1 or not torch.is_grad_enabled():
        return own
    total = own.detach().clone()
    dist.all_reduce(total)
    return own + (total / world_size() - own.detach())


def gather_columns(columns: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """Rows of every rank for several columns of equal shape, in one exchange.

    Args:
        columns: Each `(rows, dim)`.

    Returns:
        One `(rows of all ranks, dim)` a column, and at which row this rank's begin.
    """
    if world_size() == 1:
        return list(columns), 0
    joined, offset = gather_rows(torch.stack(list(columns), dim=1))
    return list(joined.unbind(dim=1)), offset


def gather_embeddings(own: Embeddings) -> tuple[Embeddings, int]:
    """Rows of every rank in one layout, in rank order; of token vectors only the tokens travel, no padding.

    Args:
        own: This rank's rows; of packed and csr rows each may have any length.

    Returns:
        The rows of all ranks, and at which of them this rank's begin; gradients as in `gather_rows`.
    """
    if world_size() == 1:
        return own, 0
    own = own.pack()
    values, first = gather_rows(own.values)
    if own.offsets is None:
        return Embeddings(values), first
    lengths, first = gather_rows(own.lengths.to(values.device))
    indices = None if own.indices is None else gather_rows(own.indices)[0]
    return Embeddings(values, None, F.pad(lengths.cumsum(0), (1, 0)).cpu(), indices, own.dim), first


class _GatherRows(torch.autograd.Function):
    """All-gather of unequal rows; backward sums over ranks and takes this rank's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        # Collectives want equal shapes: pad to the longest rank, and cut the padding off again.
        padding = [0, 0] * (tensor.dim() - 1) + [0, max(sizes) - len(tensor)]
        padded = F.pad(tensor, padding).contiguous()
        received = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(received, padded)
        return torch.cat([rows[:size] for rows, size in zip(received, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return torch.split(total, ctx.sizes)[dist.get_rank()], None
