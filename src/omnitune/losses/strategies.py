"""Strategies by which losses obtain embeddings: kept graphs while memory allows, replay for the rest.

The batch is cut into mini-batches. The graphs of as many as fit the activation budget are kept, so they cost one
forward; the others run without a graph now and are forwarded again, one at a time, when the gradient of their
embeddings is known. Loss and gradients are those of one pass over the whole batch, up to float re-association.

Cost in forwards F of the batch (backward about 2F): all kept 3F, none kept (classic gradient caching) 4F.

Source: Gao et al. 2021 (arXiv:2101.06983) for the replay; keeping a part of the graphs is ours.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from omnitune import runtime
from omnitune.errors import InputError
from omnitune.ops.splade_head import MEMORY, HeadMemory
from omnitune.types import Column, Embeddings, Encodes, Features, MiniBatch

logger = logging.getLogger(__name__)

ActivationMemory = int | float | str | None

AUTO_SHARE = 0.4
"""Share of the free memory that "auto" gives to kept graphs; the rest is for gradients, optimizer and one replay."""

INPUT_SHARE = 8
"""One part in so many of the budget may hold prepared inputs of mini-batches that will be replayed."""


class Strategy:
    """Obtains embeddings for an objective; one instance a loss.

    Args:
        mini_batch_size: Most items a mini-batch may hold; None plans by cost alone.
        mini_batch_num_tokens: Most padded tokens a mini-batch may hold; takes the place of `mini_batch_size`.
        activation_memory: Budget for kept graphs: bytes (int), a share of the free memory (float in (0, 1]), "auto",
            or 0 to replay everything. None is "auto" unless a trainer sets its own.
        show_progress_bar: Whether to show the mini-batches of every step.

    Attributes:
        last_kept: Mini-batches of the last step whose graphs were kept.
        last_replayed: Mini-batches of the last step that are forwarded again.

    Raises:
        InputError: A size is not positive, or `activation_memory` is none of the above.

    Source:
        Gao et al. 2021 (arXiv:2101.06983) for the replay.

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> loss = losses.MultipleNegativesRankingLoss(model)
        >>> loss.strategy = Strategy(mini_batch_size=16, activation_memory=0)  # least memory: replay all
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        mini_batch_size: int | None = None,
        mini_batch_num_tokens: int | None = None,
        activation_memory: ActivationMemory = None,
        show_progress_bar: bool = False,
    ) -> None:
        for name, value in (("mini_batch_size", mini_batch_size), ("mini_batch_num_tokens", mini_batch_num_tokens)):
            if value is not None and value <= 0:
                raise InputError(f"{name}: expected a positive number or None, got {value}")
        check_activation_memory(activation_memory)
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.activation_memory = activation_memory
        self.show_progress_bar = show_progress_bar
        self.last_kept = 0
        self.last_replayed = 0
        self._bytes_per_cost: dict[Any, float] = {}

    def embed(self, engine: Encodes, columns: Sequence[Column | Features]) -> list[Embeddings]:
        """Embeddings of every column, with a graph when gradients are enabled.

        Args:
            engine: Plans, prepares and runs the encoder.
            columns: Raw columns; or ready feature dicts, each run as it is.

        Returns:
            One `Embeddings` of `(items, dim)` per column, in the order of its items.
        """
        raw = [c for c in columns if isinstance(c, Column)]
        if len(raw) < len(columns):
            return [engine.run(dict(c)) for c in columns if not isinstance(c, Column)]
        plan = engine.plan(raw, mini_batch_size=self.mini_batch_size, mini_batch_num_tokens=self.mini_batch_num_tokens)
        steps = engine.in_step(plan.mini_batches)
        if torch.is_grad_enabled():
            joined = self._with_graph(engine, steps)
        else:
            prepared = self._prepared(engine, [mini_batch for _, mini_batch in steps], "Embedding")
            made = {place: engine.run(features) for (place, _), features in zip(steps, prepared, strict=True)}
            joined = Embeddings.cat([made[place] for place in range(len(plan.mini_batches))])
        return [joined[rows] for rows in plan.rows]

    def _with_graph(self, engine: Encodes, steps: Sequence[tuple[int, MiniBatch]]) -> Embeddings:
        run = _Run(engine=engine, strategy=self, budget=0 if engine.sharded else None)
        prepared = self._prepared(engine, [mini_batch for _, mini_batch in steps], "Embedding")
        for (place, mini_batch), features in zip(steps, prepared, strict=True):
            if run.budget is None:
                run.budget = resolve_activation_memory(self.activation_memory, _device(features))
            if len(steps) == 1 and engine.sharded:
                # One on every rank: a pass like any other. What ranks keep of several they would have to agree on.
                return engine.run(features)
            run.add(mini_batch, features, place)
        self.last_kept, self.last_replayed = run.kept, len(run.pieces) - run.kept
        return run.join()

    def _prepared(self, engine: Encodes, mini_batches: Sequence[MiniBatch], label: str) -> Iterator[Features]:
        prepared = engine.prepare(mini_batches)
        if not self.show_progress_bar:
            return prepared
        return runtime.progress(prepared, label=label, total=len(mini_batches), show=True, unit="mini-batch")


def check_activation_memory(value: ActivationMemory) -> None:
    """Raise unless `value` is a budget that `Strategy` takes.

    Raises:
        InputError: It is neither "auto", bytes, a share in (0, 1], 0 nor None.
    """
    if value is None or value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return
    if isinstance(value, float) and (0 < value <= 1 or value == 0):
        return
    raise InputError(
        f'activation_memory: expected "auto", a number of bytes, or a share of the free memory in (0, 1], got {value!r}'
    )


def resolve_activation_memory(value: ActivationMemory, device: str) -> int:
    """Budget in bytes on `device`, from what a user wrote."""
    if isinstance(value, int):
        return value
    share = value if isinstance(value, float) else AUTO_SHARE
    return int(share * runtime.available_memory(device))


@dataclass(slots=True)
class _Piece:
    """One mini-batch of a step: its output, with its graph, or what its replay needs; -1 is the place of a filler."""

    mini_batch: MiniBatch
    place: int
    output: Embeddings
    kept: bool
    features: Features | None = None
    random: "_RandomState | None" = None
    memory: HeadMemory | None = None


@dataclass(slots=True)
class _Run:
    """One step: what was kept, what is to be replayed."""

    engine: Encodes
    strategy: Strategy
    budget: int | None
    used: int = 0
    inputs: int = 0
    pieces: list[_Piece] = field(default_factory=list)
    autocast: "_Autocast | None" = None
    stochastic: bool | None = None
    weights: frozenset[int] | None = None

    @property
    def kept(self) -> int:
        return sum(piece.kept for piece in self.pieces)

    @property
    def joined(self) -> "list[_Piece]":
        """The pieces that are not there for other ranks' sake alone, in plan order."""
        return sorted((piece for piece in self.pieces if piece.place >= 0), key=lambda piece: piece.place)

    def add(self, mini_batch: MiniBatch, features: Features, place: int) -> None:
        """Run one mini-batch, with its graph if the budget allows."""
        if self.stochastic is None:
            self.stochastic, self.autocast = self.engine.stochastic, _Autocast.current(_device(features))
        random = _RandomState.current(_device(features)) if self.stochastic else None
        output, kept = self._run_kept(mini_batch, features) if self._expects_room(mini_batch) else (None, False)
        memory: HeadMemory | None = None
        if output is None:
            if random is not None:
                random.restore()
            memory = HeadMemory()
            with torch.no_grad():
                output = self.engine.run({**features, MEMORY: memory})
        if kept:
            self.pieces.append(_Piece(mini_batch, place, output, kept=True))
        else:
            retained = self._retain(features)
            self.pieces.append(_Piece(mini_batch, place, output.detach(), False, retained, random, memory))

    def _expects_room(self, mini_batch: MiniBatch) -> bool:
        budget = self.budget or 0
        rate = self.strategy._bytes_per_cost.get(_shape_class(mini_batch))
        expected = 0.0 if rate is None else rate * max(mini_batch.cost, 1)
        return budget > 0 and self.used + expected <= budget

    def _run_kept(self, mini_batch: MiniBatch, features: Features) -> tuple[Embeddings | None, bool]:
        """Run with a graph and weigh it: the output, or None when memory ran out, and whether its graph fits."""
        if self.weights is None:
            self.weights = frozenset(weight.untyped_storage().data_ptr() for weight in self.engine.parameters())
        scale = _Scale(_device(features), self.weights)
        try:
            with scale.weighing():
                output = self.engine.run(dict(features))
        except RuntimeError as error:
            if not runtime.is_out_of_memory(error):
                raise
            logger.warning("Out of memory while keeping graphs: replaying the rest of this step's mini-batches.")
            self.budget = self.used
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return None, False
        self.strategy._bytes_per_cost[_shape_class(mini_batch)] = scale.bytes / max(mini_batch.cost, 1)
        if self.used + scale.bytes > (self.budget or 0):
            return output, False
        self.used += scale.bytes
        return output, True

    def _retain(self, features: Features) -> Features | None:
        """The prepared inputs, if they are small enough to hold until the replay."""
        size = sum(t.numel() * t.element_size() for t in features.values() if isinstance(t, Tensor))
        if self.inputs + size > (self.budget or 0) // INPUT_SHARE:
            return None
        self.inputs += size
        return features

    def join(self) -> Embeddings:
        """All outputs as one, in plan order, connected to what was kept and to the replay of what was not."""
        if all(piece.kept for piece in self.pieces):
            return Embeddings.cat([piece.output for piece in self.joined])
        joined = Embeddings.cat([piece.output.detach() for piece in self.joined])
        anchor = torch.zeros((), requires_grad=True)
        return joined.with_values(_Boundary.apply(anchor, joined.values, self))

    def backward(self, gradient: Tensor) -> None:
        """Carry the gradient of the joined outputs `(items, dim)` or `(tokens, dim)` into the parameters, once.

        Raises:
            InputError: It was done before.
        """
        if not self.pieces:
            raise InputError(
                "backward: expected one a step, because replayed mini-batches give their memory back in it, got a "
                "second one; add losses up before it, or keep all graphs with a larger activation_memory"
            )
        joined = self.joined
        parts = torch.split(gradient, [len(piece.output.values) for piece in joined])
        known = {  # without the token padding that joining added
            p.place: part if p.output.mask is None else part[:, : p.output.values.shape[1]]
            for p, part in zip(joined, parts, strict=True)
        }
        # In the order of the forwards, which is that of other ranks; a filler has no say in the gradient.
        pairs = [(p, known[p.place] if p.place >= 0 else torch.zeros_like(p.output.values)) for p in self.pieces]
        kept = [(p.output.values, g) for p, g in pairs if p.kept and p.output.values.requires_grad]
        if kept:
            torch.autograd.backward([values for values, _ in kept], [g for _, g in kept])
        replayed = [(p, g) for p, g in pairs if not p.kept]
        self.pieces, joined, pairs, kept = [], [], [], []
        missing = self.strategy._prepared(
            self.engine, [p.mini_batch for p, _ in replayed if p.features is None], "Replaying"
        )
        frozen: set[Any] = set()
        for piece, part in replayed:
            features = next(missing) if piece.features is None else piece.features
            # What trains depends on the inputs: a conversation without an image does not meet the vision tower.
            kind = (*_shape_class(piece.mini_batch), frozenset(features))
            if kind not in frozen and not self._replay(piece, features, part):
                frozen.add(kind)
            piece.features = piece.memory = None

    def _replay(self, piece: _Piece, features: Features, gradient: Tensor) -> bool:
        """Forward again with a graph and back-propagate; False when nothing trains on the way."""
        assert self.autocast is not None
        with _RandomState.replaying(piece.random), torch.enable_grad(), self.autocast.again():
            output = self.engine.run({**features, MEMORY: piece.memory}).values
        if not output.requires_grad:
            return False
        torch.autograd.backward([output], [gradient])
        return True


class _Boundary(torch.autograd.Function):
    """Joined outputs in; at backward, their gradient goes into kept graphs and replays."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, values: Tensor, run: _Run) -> Tensor:
        del anchor
        ctx.run = run
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.run.backward(gradients[0])
        return None, None, None


def _shape_class(mini_batch: MiniBatch) -> tuple[Any, ...]:
    return mini_batch.modality, mini_batch.role


def _device(features: Features) -> str:
    return next((str(t.device) for t in features.values() if isinstance(t, Tensor)), "cpu")


class _Scale:
    """Weighs the graph of one forward: on CUDA by the allocator, elsewhere by the tensors that autograd saves."""

    def __init__(self, device: str, weights: frozenset[int]) -> None:
        self.device = device
        self.weights = weights
        self.bytes = 0

    @contextmanager
    def weighing(self) -> Iterator[None]:
        if self.device.startswith("cuda"):
            before = torch.cuda.memory_allocated(self.device)
            yield
            self.bytes = max(torch.cuda.memory_allocated(self.device) - before, 0)
            return
        # Weights are saved by every graph that uses them and cost nothing more.
        seen = set(self.weights)

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                self.bytes += storage.nbytes()
            # An output that its own graph holds would keep a graph alive that no backward goes through.
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


@dataclass(frozen=True, slots=True)
class _RandomState:
    """Random state of the host and of one device at the start of a forward."""

    device: str
    host: Tensor
    accelerator: Tensor | None

    @classmethod
    def current(cls, device: str) -> "_RandomState":
        return cls(device, torch.get_rng_state(), torch.cuda.get_rng_state(device) if "cuda" in device else None)

    def restore(self) -> None:
        torch.set_rng_state(self.host)
        if self.accelerator is not None:
            torch.cuda.set_rng_state(self.accelerator, self.device)

    @staticmethod
    @contextmanager
    def replaying(state: "_RandomState | None") -> Iterator[None]:
        """Draw what was drawn in the first forward, and leave the generators as they were."""
        if state is None:
            yield
            return
        after = _RandomState.current(state.device)
        state.restore()
        try:
            yield
        finally:
            after.restore()


@dataclass(frozen=True, slots=True)
class _Autocast:
    """Autocast settings of the first forward: backward runs outside that context, and its replay must not."""

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def current(cls, device: str) -> "_Autocast":
        kind = device.split(":")[0]
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    def again(self) -> torch.autocast:
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled)
