"""The encoding engine: plan, prepare, run. Training, replay, `encode`, evaluation and mining all encode through it.

How a batch runs, from raw columns to embeddings:

1. `plan` asks the model what each item is (text, image, ...) and what it costs in tokens, from its length or its
   header; nothing is decoded. Items that may share a mini-batch (one modality, role and prompt) go into one lane.
2. Items of equal content are kept once, unless dropout draws for each of them. Each lane is sorted by cost, widest
   first, and cut into mini-batches within a budget of rows or padded tokens, so little is padding and memory peaks
   first.
3. The plan remembers for every item which row of the joined outputs is its own.
4. `prepare` makes features: two threads decode items and call the processor for the next mini-batches while the current
   one computes. At most `AHEAD` wait, so host memory does not grow with the batch. Processors take turns, as tokenizers
   cannot be shared between threads; decoding runs beside them.
5. Where a frozen tower's outputs (`tower_cache`) or processed images (`input_cache`) are kept from before, they take
   the place of decoding and processing.
6. `run` and `forward` are one forward of the modules, through `__call__`, so that `compile` and hooks apply. A backbone
   whose attention can be told where items begin runs the mini-batch as one row without padding (`modules.packing`).
7. Callers put rows in place: `inference.results` for `encode`, `losses.strategies` for training, which may run
   `prepare` and `forward` twice to replay a batch that does not fit into memory.

With sharded weights all ranks make every forward together (`fsdp_sync`); in a distributed evaluation each rank runs its
share of the mini-batches (`distributed_eval`).
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnitune.engine.distributed_eval import Ranks
from omnitune.engine.fsdp_sync import in_step, is_sharded
from omnitune.engine.input_cache import InputCache
from omnitune.engine.protocol import RunnableModel
from omnitune.engine.tower_cache import TowerCache
from omnitune.errors import InputError, MediaError
from omnitune.inputs.cost import CostRule, cost_of
from omnitune.inputs.fingerprint import fingerprint
from omnitune.inputs.pixels import in_floats
from omnitune.modules.host_positions import host_positions, on_device
from omnitune.modules.outputs import HOST_MASK, HOST_POSITIONS
from omnitune.modules.packing import packs_through
from omnitune.modules.sequence import load_through
from omnitune.modules.towers import draws
from omnitune.ops.rows import ON_HOST
from omnitune.types import Column, Embeddings, Features, MiniBatch, Modality, Plan

AHEAD = 2
"""Mini-batches prepared ahead of the one that computes."""

WORKERS = 2
"""Threads that decode; preprocessing itself takes turns, as tokenizers cannot be shared between threads."""

DEFAULT_TOKENS = {"cpu": 8_192, "cuda": 65_536}
"""Padded tokens a mini-batch holds where no size is asked for."""

ENOUGH_TOKENS = {"cpu": 1_024, "cuda": 8_192}
"""Padded tokens from which on a mini-batch is full if the next item is much narrower than its widest."""

MUCH_NARROWER = 0.9
"""Share of the widest item's cost: what is below it would be padding for the most part of one more mini-batch."""

PADDED_OUTPUT = 4
"""Padded tokens of a packed mini-batch's output, in budgets: only the last layer's vectors are padded."""


@dataclass(slots=True)
class _Lane:
    """Items that may share a mini-batch: one modality, role, prompt and limit.

    Where padding is not masked (`whole`), an item's output depends on what it is padded with; so these are the items of
    one column, repeated ones as well, cut where the caller says and nowhere else.
    """

    modality: Modality
    role: str | None
    prompt: str | None
    max_length: int | None = None
    items: list[Any] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    costs: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    known: dict[Any, int] = field(default_factory=dict)
    tower: str | None = None
    processing: str | None = None
    whole: bool = False
    packed: bool = False


@dataclass(slots=True)
class _Draft:
    """A plan in the making: the items seen so far, by lane."""

    model: RunnableModel
    distinct: bool
    strings_are_text: bool
    rule: CostRule
    towers: TowerCache
    inputs: InputCache
    lanes: dict[Any, _Lane] = field(default_factory=dict)

    def place(self, column: Column, index: int) -> tuple[_Lane, int]:
        """Put an item of a column into its lane; returns the lane and the number there, which equal items share."""
        item = column.items[index]
        try:
            kind = self.model.modality_of(item, strings_are_text=self.strings_are_text)
            lane = self._lane(kind, column)
            key = ""
            merges = self.distinct and not lane.whole
            if merges or lane.tower is not None or lane.processing is not None:
                local = self.model.media_policy.allow_local_files
                text = kind == "text" and isinstance(item, str)
                key = item if text else fingerprint(item, kind, local_files=local)
            if merges and key in lane.known:
                return lane, lane.known[key]
            cost = cost_of(item, kind, self.rule, self.model.media_policy)
        except MediaError as error:
            raise error.at(column.place(index)) from error
        except InputError as error:
            raise type(error)(f"{column.place(index)}: {error}") from error
        if merges:
            lane.known[key] = len(lane.items)
        lane.items.append(item)
        lane.places.append(column.place(index))
        lane.costs.append(cost)
        # Texts that are cut cost the same by estimate, not in fact: the estimate of a token's characters may be off.
        lane.lengths.append(len(item) if isinstance(item, str) else 0)
        lane.keys.append(key)
        return lane, len(lane.items) - 1

    def _lane(self, kind: Modality, column: Column) -> _Lane:
        whole = kind == "text" and self.rule.padding_counts
        name = (kind, column.role, column.prompt, column.max_length, id(column) if whole else None)
        if name not in self.lanes:
            lane = self.lanes[name] = _Lane(kind, column.role, column.prompt, column.max_length, whole=whole)
            lane.tower, lane.processing = self.towers.state(kind), self.inputs.state(kind)
            lane.packed = packs_through(self.model.children(), kind)
        return self.lanes[name]


class Engine:
    """Encodes raw columns with one model.

    Attributes:
        model: The model.
        towers: What frozen towers gave before.
        ranks: Those that share the work of inference now, or None.
    """

    def __init__(self, model: RunnableModel) -> None:
        self.model = model
        self.towers = TowerCache(model, self.evaluating)
        self.ranks: Ranks | None = None
        self._turn = threading.Lock()
        self.inputs = InputCache(model, self._turn)
        self._mode = threading.Lock()
        self._training: list[nn.Module] = []
        self._inferring = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"])  # type: ignore[misc]  # a lock is made anew, never carried

    @property
    def stochastic(self) -> bool:
        """Tell whether a forward draws random numbers now: a module in training mode with dropout or noise."""
        return any(module.training and draws(module) for module in self.model.modules())

    @property
    def sharded(self) -> bool:
        """Tell whether weights are sharded over ranks, which must then make every forward together."""
        return is_sharded(self.model)

    def in_step(self, mini_batches: Sequence[MiniBatch]) -> list[tuple[int, MiniBatch]]:
        """List the forwards to make, each with its place in `mini_batches`; -1 is for the sake of other ranks alone."""
        return in_step(mini_batches) if self.sharded else list(enumerate(mini_batches))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode; the modes of before come back when the last of the threads that are in it leaves."""
        with self._mode:
            self._inferring += 1
            if self._inferring == 1:
                self._training = [module for module in self.model.modules() if module.training]
                if self._training:  # a search encodes one query after another: walking the modules is a tenth of that
                    self.model.eval()
        try:
            yield
        finally:
            with self._mode:
                self._inferring -= 1
                if not self._inferring:
                    for module in self._training:
                        module.training = True
                    self._training = []

    def parameters(self) -> Iterable[Tensor]:
        """The model's weights."""
        return self.model.parameters()

    def plan(
        self,
        columns: Sequence[Column],
        *,
        mini_batch_size: int | None = None,
        mini_batch_num_tokens: int | None = None,
        strings_are_text: bool = False,
    ) -> Plan:
        """Decide which items are encoded together, and in which order.

        Items equal in content are encoded once, except while dropout is active, when each has its own draw.

        Args:
            columns: Raw columns, of any lengths.
            mini_batch_size: Most items in a mini-batch.
            mini_batch_num_tokens: Most padded tokens in a mini-batch; takes the place of `mini_batch_size`. With
                neither, a budget that suits the device.
            strings_are_text: A bare string is text, whatever it looks like; otherwise one that looks like the path or
                URL of media is that media.

        Returns:
            Mini-batches in descending cost, and for each column the output row of every item.

        Raises:
            MediaError: An item is unreadable; the message has its dataset, row and column.
            ModalityError: An item is of a kind that the model does not take; the message has its place, too.
            InputError: A text is none; likewise.
        """
        draft = _Draft(
            self.model, not self.stochastic, strings_are_text, self.model.cost_rule, self.towers, self.inputs
        )
        slots = [[draft.place(column, i) for i in range(len(column))] for column in columns]
        kind = "cpu" if self.model.device.type == "cpu" else "cuda"
        if mini_batch_size is None and mini_batch_num_tokens is None:
            mini_batch_num_tokens = DEFAULT_TOKENS[kind]
        limits = _Limits(
            rows=None if mini_batch_num_tokens is not None else mini_batch_size,
            tokens=mini_batch_num_tokens,
            enough=ENOUGH_TOKENS[kind],
        )
        mini_batches: list[MiniBatch] = []
        row_of: dict[tuple[int, int], int] = {}
        for lane in draft.lanes.values():
            order: list[int]
            if lane.whole:  # padding counts, so as Sentence Transformers orders them
                order = np.argsort([-length for length in lane.lengths]).tolist()
            else:
                order = sorted(range(len(lane.items)), key=lambda i: (-lane.costs[i], -lane.lengths[i]))
            row_of.update({(id(lane), item): len(row_of) + k for k, item in enumerate(order)})
            mini_batches += _cut(lane, order, limits)
        rows = [torch.tensor([row_of[id(lane), item] for lane, item in slot], dtype=torch.int64) for slot in slots]
        return Plan(mini_batches=mini_batches, rows=rows)

    def prepare(self, mini_batches: Sequence[MiniBatch], **kwargs: Any) -> Iterator[Features]:
        """Features of every mini-batch, on the model's device, made a few ahead in the background.

        Args:
            mini_batches: From `plan`.
            **kwargs: Passed on to the model's preprocessing.

        Raises:
            MediaError: An item is unreadable; the message has its dataset, row and column.
        """
        if len(mini_batches) <= 1:  # a thread would only add its start to the wait
            for mini_batch in mini_batches:
                yield self._features(mini_batch, kwargs)
            return
        waiting: deque[Future[Features]] = deque()
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="omnitune-prepare") as pool:
            try:
                todo = iter(mini_batches)
                for mini_batch in itertools.islice(todo, AHEAD + 1):
                    waiting.append(pool.submit(self._features, mini_batch, kwargs))
                while waiting:
                    features = waiting.popleft().result()
                    for mini_batch in itertools.islice(todo, 1):
                        waiting.append(pool.submit(self._features, mini_batch, kwargs))
                    yield features
            finally:
                wait([future for future in waiting if not future.cancel()])

    def _features(self, mini_batch: MiniBatch, kwargs: dict[str, Any]) -> Features:
        if mini_batch.max_length is not None:
            kwargs = {**kwargs, "max_length": mini_batch.max_length}
        if mini_batch.tower is None and mini_batch.processing is None:  # the plan found nothing that is kept
            return self._on_device(self._made(mini_batch, kwargs, range(len(mini_batch.items))))
        kept = self.towers.features(mini_batch, kwargs)
        if kept is not None:
            return self._on_device(kept)
        features = self.inputs.features(mini_batch, kwargs, partial(self._made, mini_batch, kwargs))
        return self._on_device(self.towers.noted(mini_batch, features, kwargs))

    def _on_device(self, features: Features) -> Features:
        device = self.model.device
        if device.type != "cuda":
            return to_device(features, device)
        positions = on_device(host_positions(self.model.input_module, features), device)
        return {**to_device(features, device), **({HOST_POSITIONS: positions} if positions else {})}

    def _made(self, mini_batch: MiniBatch, kwargs: dict[str, Any], rows: Sequence[int]) -> Features:
        """Features of some rows, decoded and processed."""
        modules, policy, loaded = list(self.model.children()), self.model.media_policy, []
        for row in rows:
            item = mini_batch.items[row]
            try:
                loaded.append(load_through(modules, item, mini_batch.modality, policy, task=mini_batch.role, **kwargs))
            except MediaError as error:
                raise error.at(mini_batch.places[row]) from error
        with self._turn:
            return self.model.preprocess_loaded(
                loaded, mini_batch.prompt, modality=mini_batch.modality, task=mini_batch.role, **kwargs
            )

    def run(self, features: Features) -> Embeddings:
        """One forward: the family's output for every row of `features`."""
        return self.model.family.read(self.forward(features))

    def forward(self, features: Features, **kwargs: Any) -> Features:
        """One forward: everything the modules wrote. Goes through `__call__`, so that `compile` and hooks apply."""
        result: Features = self.model(self.towers.resolved(in_floats(features)), **kwargs)
        return result

    def forecast(self, item: Any) -> Callable[[int], str] | None:
        """Say what keeping tower outputs saves and costs, by encoding one item; None if its tower is not frozen.

        Returns:
            From a number of distinct items to a sentence.
        """
        store = self.towers.store
        column = Column(name="item", items=[item])
        with self.evaluating(), torch.inference_mode():
            mini_batch = self.plan([column]).mini_batches[0]
            if mini_batch.tower is None or store is None:
                return None
            before = store.in_memory + store.on_disk
            seconds = []
            for _ in range(2):
                start = time.perf_counter()
                for features in self.prepare([mini_batch]):
                    self.run(features)
                seconds.append(time.perf_counter() - start)
        size = (store.in_memory + store.on_disk - before) / (1 if store.folder is None else 2)
        place = "memory" if store.folder is None else f"{store.folder}, and as much of it as fits in memory"
        room = (store.disk if store.folder is not None else store.memory) / 1e6

        def said(items: int) -> str:
            return (
                f"the tower is frozen, so its outputs are kept: {items:,} items of {size / 1e6:.2g} MB are "
                f"{items * size / 1e6:,.0f} MB in {place} (room for {room:,.0f} MB). The first one took "
                f"{seconds[0]:.2g} s to encode, and {seconds[1]:.2g} s again."
            )

        return said


def to_device(features: Features, device: torch.device) -> Features:
    """The same features with their tensors on `device`, but for those that the host reads; it waits for no copy."""
    moved = {k: v for k, v in features.items() if isinstance(v, Tensor) and k not in ON_HOST and v.device != device}
    if device.type != "cuda":
        return {**features, **{k: v.to(device) for k, v in moved.items()}}
    moved = {
        k: (v.pin_memory() if v.device.type == "cpu" else v).to(device, non_blocking=True) for k, v in moved.items()
    }
    mask = {HOST_MASK: features["attention_mask"]} if "attention_mask" in features else {}
    return {**features, **moved, **mask}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """Most items and most padded tokens of a mini-batch, and how many are enough."""

    rows: int | None
    tokens: int | None
    enough: int


def _cut(lane: _Lane, order: Sequence[int], limits: _Limits) -> Iterator[MiniBatch]:
    """Yield consecutive cuts of `order`, each within `limits`; one item always fits."""
    # Costs descend, so the first item of a cut says how wide all of it is padded, and the most memory is taken by the
    # first mini-batch: a run that does not fit fails at once and not after an hour.
    start = 0
    while start < len(order):
        stop = (_packed_stop if lane.packed else _padded_stop)(lane, order, limits, start)
        cut = order[start:stop]
        widest = max(lane.costs[order[start]], 1)
        yield MiniBatch(
            items=[lane.items[i] for i in cut],
            places=[lane.places[i] for i in cut],
            modality=lane.modality,
            role=lane.role,
            prompt=lane.prompt,
            # Packed, tokens are end to end; padded, every item is as wide as the widest. Ranks are dealt work by this.
            cost=sum(lane.costs[i] for i in cut) if lane.packed else widest * len(cut),
            keys=[lane.keys[i] for i in cut],
            tower=lane.tower,
            processing=lane.processing,
            max_length=lane.max_length,
        )
        start = stop


def _padded_stop(lane: _Lane, order: Sequence[int], limits: _Limits, start: int) -> int:
    """Find where a cut ends that runs padded. Costs descend, so its first item is its widest."""
    widest = max(lane.costs[order[start]], 1)
    stop = len(order) if limits.rows is None else min(start + limits.rows, len(order))
    if limits.tokens is not None:
        stop = min(stop, start + max(limits.tokens // widest, 1))
    # From `enough` tokens on the device is busy; one more item that is much narrower would add padding and no speed.
    enough = stop if lane.whole else start + max(-(-limits.enough // widest), 1)
    narrower = (i for i in range(enough, stop) if lane.costs[order[i]] < MUCH_NARROWER * widest)
    return next(narrower, stop)


def _packed_stop(lane: _Lane, order: Sequence[int], limits: _Limits, start: int) -> int:
    """Find where a cut ends that runs as one row: its tokens count, and the padding of its output alone is bounded."""
    stop = len(order) if limits.rows is None else min(start + limits.rows, len(order))
    if limits.tokens is None:
        return stop
    widest = max(lane.costs[order[start]], 1)
    stop = min(stop, start + max(PADDED_OUTPUT * limits.tokens // widest, 1))
    totals = itertools.accumulate(lane.costs[i] for i in order[start:stop])
    full = next((start + n for n, total in enumerate(totals) if total > limits.tokens), stop)
    return max(full, start + 1)
