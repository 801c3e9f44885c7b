"""One thread that owns the models, and the bounded queue before it.

Every input of every request is an entry of its own. When the thread is free it takes the oldest entry and whatever else
of its kind waits, up to a cost; it never waits for more, so a single request is as fast as without a queue.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from omnitune.errors import OmnituneError, ResourceError
from omnitune.runtime import is_out_of_memory

logger = logging.getLogger(__name__)

LIMIT = 4096
"""Entries that may wait."""
MOST = 64
"""Entries of one batch."""
BUDGET = 16_384
"""Cost of one batch, in tokens; an entry that costs more is a batch of its own."""
LEAST_BUDGET = 256
"""Cost to which the budget may shrink where memory runs out."""

Work = Callable[[Sequence[Any]], Sequence[Any]]


class QueueFullError(OmnituneError):
    """More entries than the queue holds; `seconds` says when to try again."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__(f"the server is busy: the queue is full; try again in {seconds} s")


@dataclass(slots=True)
class Entry:
    """One input that waits: its kind of work, its value, its cost in tokens, and where the result goes."""

    kind: Hashable
    item: Any
    cost: int
    future: "Future[Any]" = field(default_factory=Future)


class Worker:
    """Runs entries in batches on one thread.

    Args:
        works: For every kind of work a function of items `(n,)` to results `(n,)`.
        limit: Entries that may wait.
        most: Entries of one batch.
        budget: Cost of one batch; halved for good when one did not fit into memory.
    """

    def __init__(
        self, works: Mapping[Hashable, Work], *, limit: int = LIMIT, most: int = MOST, budget: int = BUDGET
    ) -> None:
        self.works, self.limit, self.most, self.budget = dict(works), limit, most, budget
        self.batches = self.done = self.dropped = self.refused = 0
        self._waiting: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._seconds = 0.01  # of an entry, a moving average: it says when a refused request may come again
        self._thread = threading.Thread(target=self._run, name="omnitune-worker", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Tell whether entries are taken."""
        return self._thread.is_alive() and not self._closing

    @property
    def waiting(self) -> int:
        """Entries in the queue."""
        return len(self._waiting)

    def submit(self, kind: Hashable, items: Sequence[Any], costs: Sequence[int]) -> "list[Future[Any]]":
        """Queue all items of a request, or none.

        Args:
            kind: One of `works`.
            items: The inputs.
            costs: Of each, in tokens.

        Raises:
            QueueFullError: They do not all fit.
            ResourceError: The server stops.
        """
        entries = [Entry(kind, item, cost) for item, cost in zip(items, costs, strict=True)]
        with self._changed:
            if not self.ready:
                raise ResourceError("the server is stopping and takes no more requests")
            if len(self._waiting) + len(entries) > self.limit:
                self.refused += 1
                raise QueueFullError(min(60, max(1, math.ceil(len(self._waiting) * self._seconds))))
            self._waiting.extend(entries)
            self._changed.notify()
        return [entry.future for entry in entries]

    def stop(self) -> None:
        """Take no more entries, finish those that wait, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                batch = self._next_batch()
            running = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            self.dropped += len(batch) - len(running)
            if not running:
                continue
            started = time.monotonic()
            self._compute(running)
            self._seconds += 0.2 * ((time.monotonic() - started) / len(running) - self._seconds)
            self.batches += 1
            self.done += len(running)

    def _next_batch(self) -> list[Entry]:
        """Take the oldest entry, and others of its kind in their order; the rest stays in its order."""
        batch: list[Entry] = []
        left: list[Entry] = []
        cost = 0
        kind = self._waiting[0].kind
        while self._waiting and len(batch) < self.most:
            entry = self._waiting.popleft()
            if entry.kind != kind:
                left.append(entry)
            elif batch and cost + entry.cost > self.budget:
                left.append(entry)
                break
            else:
                batch.append(entry)
                cost += entry.cost
        self._waiting.extendleft(reversed(left))
        return batch

    def _compute(self, batch: list[Entry]) -> None:
        """Set the result or the error of every entry; one that fails in a batch fails alone."""
        try:
            results = self.works[batch[0].kind]([entry.item for entry in batch])
        except Exception as error:  # noqa: BLE001  # of any kind: it belongs to the request, and the thread goes on
            memory = is_out_of_memory(error)
            if len(batch) > 1:
                # Out of memory wants smaller batches, and one bad input must not fail the other requests of its batch.
                half = len(batch) // 2
                if memory:
                    self.budget = max(LEAST_BUDGET, min(self.budget, sum(entry.cost for entry in batch)) // 2)
                    logger.warning("out of memory: batches have %s estimated tokens from here on", self.budget)
                self._compute(batch[:half])
                self._compute(batch[half:])
                return
            if memory:
                error = ResourceError("the server has not enough memory for this input; send a shorter one")
            elif not isinstance(error, OmnituneError):
                logger.exception("a request failed")
            batch[0].future.set_exception(error)
            return
        for entry, result in zip(batch, results, strict=True):
            try:
                entry.future.set_result(result)
            except InvalidStateError:
                logger.debug("an entry was cancelled while it ran")
