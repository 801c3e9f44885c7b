"""Encoding shared by all ranks of a distributed run: each does a share, and every rank gets all of it.

Every rank makes the same calls with the same items and so the same plan; its mini-batches are dealt by cost and run by
one rank each, cut as one process would cut them, so the results are those of one process. Nothing waits for a rank that
failed or does something else: every exchange carries what its sender is about to do. Ranks that turn out to encode
different items, as an evaluator that draws them at random makes them, go on alone, each with all of its own items.
"""

import hashlib
import heapq
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch.distributed
from torch import Tensor

from omnitune.errors import ResourceError
from omnitune.ops.collectives import exchanged, world_size
from omnitune.types import MiniBatch, Plan

logger = logging.getLogger(__name__)

Doing = Literal["encode", "encoded", "finished", "failed"]


class Ranks:
    """The ranks that encode together.

    Attributes:
        together: Whether they still do; ranks that found themselves encoding different items go on alone.
        over: Whether one of them has failed, and no rank exchanges anything any more.
    """

    def __init__(self) -> None:
        self.together = True
        self.over = False
        self._own: list[int] = []

    def share(self, plan: Plan, about: str) -> list[MiniBatch]:
        """Deal out what is planned: the mini-batches that this rank runs, all of them where ranks go on alone.

        Args:
            plan: Of this rank, and the same on every rank as long as they encode the same items.
            about: What else decides the results, beside the items.

        Raises:
            ResourceError: Another rank failed; says which, and why.
        """
        made = hashlib.blake2b(about.encode(), digest_size=16)
        for rows in plan.rows:
            made.update(rows.numpy().tobytes())
        for one in plan.mini_batches:
            made.update(repr((one.modality, one.role, one.prompt, one.cost, one.keys)).encode())
        mark = made.hexdigest()
        if self.together and any(one != ("encode", mark) for one in self._exchange("encode", mark)):
            self.together = False
            logger.warning(
                "evaluator: the ranks do not encode the same items, as with an evaluator that draws them at random; "
                "from here on every rank encodes everything itself."
            )
        self._own = list(range(len(plan.mini_batches)))
        if self.together:
            costs = [mini_batch.cost for mini_batch in plan.mini_batches]
            self._own = deal(costs, world_size())[torch.distributed.get_rank()]
        return [plan.mini_batches[number] for number in self._own]

    def gather(self, made: Sequence[Any]) -> list[Any]:
        """The results of all mini-batches of the plan that was shared last, in its order, tensors on the CPU.

        Args:
            made: Results of this rank's own.

        Raises:
            ResourceError: Another rank failed; says which, and why.
        """
        results = dict(zip(self._own, map(_on_cpu, made), strict=True))
        if self.together:
            for _, part in self._exchange("encoded", results):
                results |= part
        return [results[number] for number in range(len(results))]

    def finish(self, result: Any) -> list[Any]:
        """Collect the result of every rank, by rank.

        Raises:
            ResourceError: Another rank failed; says which, and why.
        """
        found = self._exchange("finished", result)
        if any(doing != "finished" for doing, _ in found):  # others encode what this rank did not; they come alone
            self.together = False
            found = self._exchange("finished", result)
        return [value for _, value in found]

    def fail(self, error: BaseException) -> None:
        """Tell the others, once, that this rank cannot go on."""
        if not self.over:
            self.over = True
            exchanged(("failed", f"{type(error).__name__}: {error}"))

    def _exchange(self, doing: Doing, value: Any) -> list[tuple[Doing, Any]]:
        self.over = True  # until the others have answered: where the connection is lost, nobody is to be told
        found: list[tuple[Doing, Any]] = exchanged((doing, value))
        for rank, (other, said) in enumerate(found):
            if other == "failed":
                raise ResourceError(f"rank {rank} failed, and the others stop with it: {said}")
        self.over = False
        return found


class HasRanks(Protocol):
    """An engine, as far as sharing goes."""

    ranks: Ranks | None


@contextmanager
def sharing(engine: HasRanks) -> Iterator[Ranks]:
    """Let all ranks share the work within this context, in which they call the same verbs with the same items."""
    ranks = Ranks()
    engine.ranks = ranks
    try:
        yield ranks
    except BaseException as error:
        ranks.fail(error)
        raise
    finally:
        engine.ranks = None


def deal(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """Numbers of the pieces of work that each rank takes: every piece goes to whoever has the least so far.

    Args:
        costs: Of each piece.
        ranks: How many there are; with fewer pieces than ranks, some get none.
    """
    loads = [(0, rank) for rank in range(ranks)]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        load, rank = heapq.heappop(loads)
        shares[rank].append(number)
        heapq.heappush(loads, (load + max(costs[number], 1), rank))
    return shares


def _on_cpu(value: Any) -> Any:
    """The same with its tensors on the CPU: a device of one rank is no device of another."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(part) for name, part in value.items()}
    return [_on_cpu(part) for part in value] if isinstance(value, list) else value
