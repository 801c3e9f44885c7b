"""Input across step boundaries: the next batch's first mini-batches are made while this step goes backward.

A trainer offers every batch when it is read, which is one batch before it is used. When the forwards of a batch are
done, the next one is planned, and as many of its mini-batches as are ever made ahead are made in the background. So the
host holds no more than within a step. At its own step a batch is planned again if anything that a plan depends on has
changed since, and what is wrong with one of its items is raised then, not before.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from omnitune.errors import OmnituneError
from omnitune.types import Column, Features, MiniBatch, Plan

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Offered:
    """A batch that will come, and what was made of it."""

    columns: Sequence[Column]
    options: Any = None
    chosen: Sequence[int] = ()
    plan: Plan | None = None
    state: Any = None
    made: dict[int, Future[Features]] = field(default_factory=dict)


class Lookahead:
    """Plans and features of the batch after the one that computes.

    Args:
        plan: Plans columns with the options of a plan.
        features: Makes the features of a mini-batch.
        state: What a plan depends on besides its columns and options, for the kinds of items in it.
        ahead: Mini-batches made of the next batch.
        workers: Threads that make them.
    """

    def __init__(
        self,
        plan: Callable[[Sequence[Column], Any], Plan],
        features: Callable[[MiniBatch], Features],
        state: Callable[[Plan], Any],
        *,
        ahead: int,
        workers: int,
    ) -> None:
        self.ahead = ahead
        self.workers = workers
        self.served = 0
        self._plan, self._features, self._state = plan, features, state
        self._offers: deque[_Offered] = deque()
        self._now: _Offered | None = None
        self._due = False

    def offer(self, columns: Sequence[Column]) -> None:
        """Say which columns will come after those that were offered before."""
        self._offers.append(_Offered(columns))

    def planned(self, columns: Sequence[Column], options: Any) -> Plan | None:
        """The plan of these columns, if it was made ahead and still holds; notes how the batch is used."""
        if not any(_chosen(offered, columns) for offered in self._offers):
            return None
        self.drop()
        while not _chosen(self._offers[0], columns):
            self._forget(self._offers.popleft())
        now = self._now = self._offers.popleft()
        chosen = _chosen(now, columns)
        known = now.plan if (now.options, now.chosen) == (options, chosen) else None
        if known is not None and self._state(known) != now.state:
            known = None
        now.options, now.chosen = options, chosen
        self._due = True
        if known is None:
            self._forget(now)
        return known

    def take(self, mini_batch: MiniBatch) -> Future[Features] | None:
        """The features of a mini-batch that are made, or being made, ahead; once."""
        made = None if self._now is None else self._now.made.pop(id(mini_batch), None)
        self.served += made is not None
        return made

    def start(self) -> None:
        """Make the first mini-batches of the batch after the one that was planned last, once."""
        if not self._due or self._now is None:
            return
        self._due = False
        if not self._offers:
            return
        following = self._offers[0]
        following.options, following.chosen = self._now.options, self._now.chosen
        if max(following.chosen) >= len(following.columns):
            return
        try:
            following.plan = self._plan([following.columns[i] for i in following.chosen], following.options)
        except (OmnituneError, OSError) as error:  # raised again when it is planned at its step
            logger.debug("The next batch cannot be planned ahead: %s", error)
            return
        following.state = self._state(following.plan)
        threads = ThreadPoolExecutor(self.workers, thread_name_prefix="omnitune-ahead")
        for mini_batch in following.plan.mini_batches[: self.ahead]:
            following.made[id(mini_batch)] = threads.submit(self._features, mini_batch)
        threads.shutdown(wait=False)

    def drop(self) -> None:
        """Forget what was made for the current batch and not taken."""
        if self._now is not None:
            self._forget(self._now)
        self._now = None

    def clear(self) -> None:
        """Forget every batch; returns when no thread works for one any more."""
        self.drop()
        while self._offers:
            self._forget(self._offers.popleft())
        self._due = False

    @staticmethod
    def _forget(offered: _Offered) -> None:
        waiting = [future for future in offered.made.values() if not future.cancel()]
        wait(waiting)
        offered.made.clear()
        offered.plan = None


def _chosen(offered: _Offered, columns: Sequence[Column]) -> tuple[int, ...]:
    """Which of the offered columns these are, all of them, or none."""
    places = {id(column): place for place, column in enumerate(offered.columns)}
    found = tuple(places[id(column)] for column in columns if id(column) in places)
    return found if len(found) == len(columns) else ()
