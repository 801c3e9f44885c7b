"""Kept, replayed and mixed graphs give one loss and one set of gradients."""

import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError
from omnitune.losses.strategies import Strategy, resolve_activation_memory
from omnitune.types import Column, Embeddings, Features, MiniBatch, Plan


@pytest.fixture(autouse=True)
def double_precision():
    """Sums in another order then agree to 1e-6, which float32 does not promise."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Engine:
    """The protocol over a small network: items are vectors, a mini-batch is a few rows."""

    def __init__(self, dropout: float = 0.0, dim: int = 16) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(dim, 64), nn.Tanh(), nn.Dropout(dropout), nn.Linear(64, dim))
        self.forwards = 0
        self.prepared = 0

    def plan(self, columns: Sequence[Column], *, mini_batch_size=None, mini_batch_num_tokens=None) -> Plan:
        items = [item for column in columns for item in column.items]
        size = mini_batch_size or len(items)
        cuts = [items[i : i + size] for i in range(0, len(items), size)]
        rows, start = [], 0
        for column in columns:
            rows.append(torch.arange(start, start + len(column)))
            start += len(column)
        batches = [MiniBatch(items=c, places=["" for _ in c], modality="text", cost=len(c)) for c in cuts]
        return Plan(mini_batches=batches, rows=rows)

    sharded = False

    def in_step(self, mini_batches: Sequence[MiniBatch]) -> list[tuple[int, MiniBatch]]:
        return list(enumerate(mini_batches))

    def prepare(self, mini_batches: Sequence[MiniBatch]) -> Iterator[Features]:
        for mini_batch in mini_batches:
            self.prepared += 1
            yield {"x": torch.stack(list(mini_batch.items))}

    def run(self, features: Features) -> Embeddings:
        self.forwards += 1
        return Embeddings(self.net(features["x"]))

    def parameters(self) -> Iterator[Tensor]:
        return self.net.parameters()

    @property
    def stochastic(self) -> bool:
        return self.net.training and self.net[2].p > 0


def columns(rows: int = 24, dim: int = 16) -> list[Column]:
    torch.manual_seed(1)
    return [Column(name=n, items=list(torch.randn(rows, dim))) for n in ("query", "page")]


def step(engine: Engine, strategy: Strategy, scale: float = 1.0) -> tuple[float, Tensor]:
    engine.net.zero_grad()
    queries, pages = strategy.embed(engine, columns())
    scores = F.normalize(queries.values, dim=-1) @ F.normalize(pages.values, dim=-1).T * 20
    loss = F.cross_entropy(scores, torch.arange(len(scores)))
    (loss * scale).backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in engine.net.parameters()])


def bytes_of_one_mini_batch(size: int) -> int:
    strategy = Strategy(mini_batch_size=size, activation_memory=1 << 30)
    step(Engine(), strategy)
    return int(next(iter(strategy._bytes_per_cost.values())) * size)


def test_kept_replayed_and_mixed_agree() -> None:
    whole = step(Engine(), Strategy(activation_memory=1 << 30))
    some = 3 * bytes_of_one_mini_batch(6) + 10
    for budget in (1 << 30, 0, some):
        strategy = Strategy(mini_batch_size=6, activation_memory=budget)
        loss, gradient = step(Engine(), strategy)
        assert loss == pytest.approx(whole[0], rel=1e-6)
        torch.testing.assert_close(gradient, whole[1], rtol=1e-5, atol=1e-6)
    assert (strategy.last_kept, strategy.last_replayed) == (3, 5)


def test_gradients_scale_with_the_loss() -> None:
    _, once = step(Engine(), Strategy(mini_batch_size=6, activation_memory=0))
    _, thrice = step(Engine(), Strategy(mini_batch_size=6, activation_memory=0), scale=3.0)
    torch.testing.assert_close(thrice, once * 3, rtol=1e-5, atol=1e-6)


def test_forwards_are_two_a_replayed_and_one_a_kept_mini_batch() -> None:
    engine = Engine()
    step(engine, Strategy(mini_batch_size=6, activation_memory=0))
    assert engine.forwards == 16
    engine = Engine()
    step(engine, Strategy(mini_batch_size=6, activation_memory=1 << 30))
    assert engine.forwards == 8


def test_inputs_are_prepared_again_when_they_are_not_held() -> None:
    engine = Engine()
    step(engine, Strategy(mini_batch_size=6, activation_memory=0))
    assert engine.prepared == 16


@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_dropout_draws_are_replayed(budget: int) -> None:
    """With dropout, a replay must use the masks of its first forward: gradients equal those of kept graphs."""
    reference = Engine(dropout=0.5)
    torch.manual_seed(7)
    expected = step(reference, Strategy(mini_batch_size=6, activation_memory=1 << 30))
    engine = Engine(dropout=0.5)
    torch.manual_seed(7)
    loss, gradient = step(engine, Strategy(mini_batch_size=6, activation_memory=budget))
    assert loss == pytest.approx(expected[0], rel=1e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_a_replay_leaves_the_generator_as_it_was() -> None:
    states = []
    for budget in (0, 1 << 30):
        engine = Engine(dropout=0.5)
        torch.manual_seed(7)
        step(engine, Strategy(mini_batch_size=6, activation_memory=budget))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_frozen_encoder_needs_no_graph() -> None:
    engine = Engine()
    for parameter in engine.net.parameters():
        parameter.requires_grad_(False)
    head = nn.Parameter(torch.ones(()))
    queries, _ = Strategy(mini_batch_size=6, activation_memory=0).embed(engine, columns())
    (queries.values.sum() * head).backward()
    assert head.grad is not None
    assert engine.forwards == 8 + 1, "one replay finds out that nothing trains; the others are skipped"


def test_a_replay_without_gradient_skips_its_like_only() -> None:
    """Items of one kind may or may not meet what trains, as conversations with and without an image do."""

    class Sometimes(Engine):
        def prepare(self, mini_batches: Sequence[MiniBatch]) -> Iterator[Features]:
            for number, features in enumerate(super().prepare(mini_batches)):
                yield features if number % 2 == 0 else {**features, "image": torch.ones(1)}

        def run(self, features: Features) -> Embeddings:
            output = super().run(features).values
            return Embeddings(output if "image" in features else output.detach())

    _, kept = step(Sometimes(), Strategy(mini_batch_size=6, activation_memory=1 << 30))
    _, replayed = step(Sometimes(), Strategy(mini_batch_size=6, activation_memory=0))
    torch.testing.assert_close(replayed, kept, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_a_graph_without_a_backward_is_freed(budget: int) -> None:
    engine = Engine()
    outputs: list[weakref.ref[Tensor]] = []
    engine.net[1].register_forward_hook(lambda *call: outputs.append(weakref.ref(call[2])))
    embeddings = Strategy(mini_batch_size=6, activation_memory=budget).embed(engine, columns())
    del embeddings
    assert len(outputs) == 8 and not any(output() is not None for output in outputs)


def test_a_second_backward_of_a_replay_says_why_not() -> None:
    queries, _ = Strategy(mini_batch_size=6, activation_memory=0).embed(Engine(), columns())
    queries.values.sum().backward(retain_graph=True)
    with pytest.raises(InputError, match="backward: expected one a step"):
        queries.values.sum().backward()


def test_without_gradients_nothing_is_kept() -> None:
    with torch.no_grad():
        embeddings = Strategy(mini_batch_size=6).embed(Engine(), columns())
    assert [len(e) for e in embeddings] == [24, 24]
    assert not embeddings[0].values.requires_grad


def test_ready_features_are_run_as_they_are() -> None:
    engine = Engine()
    (embeddings,) = Strategy(mini_batch_size=2).embed(engine, [{"x": torch.randn(5, 16)}])
    assert engine.forwards == 1
    assert embeddings.values.shape == (5, 16)


class ShortOfMemory(Engine):
    """Runs out of memory with a graph from the third forward on."""

    def run(self, features: Features) -> Embeddings:
        if self.forwards >= 2 and torch.is_grad_enabled() and self.forwards < 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return super().run(features)


def test_running_out_of_memory_replays_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    expected = step(Engine(), Strategy(mini_batch_size=6, activation_memory=1 << 30))
    strategy = Strategy(mini_batch_size=6, activation_memory=1 << 30)
    loss, gradient = step(ShortOfMemory(), strategy)
    assert caplog.text.count("Out of memory while keeping graphs") == 1
    assert (strategy.last_kept, strategy.last_replayed) == (2, 6)
    assert loss == pytest.approx(expected[0], rel=1e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_other_errors_are_not_swallowed() -> None:
    class Broken(Engine):
        def run(self, features: Features) -> Embeddings:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Strategy(mini_batch_size=6).embed(Broken(), columns())


def test_autocast_of_the_forward_holds_in_the_replay() -> None:
    seen = []

    class Watching(Engine):
        def run(self, features: Features) -> Embeddings:
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().run(features)

    engine = Watching()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        queries, _ = Strategy(mini_batch_size=24, activation_memory=0).embed(engine, columns())
        loss = queries.values.float().sum()
    loss.backward()
    assert seen == [True] * 4


@pytest.mark.parametrize("value", [-1, 1.5, "most", True])
def test_a_bad_budget_is_named(value: object) -> None:
    with pytest.raises(InputError, match="activation_memory: expected"):
        Strategy(activation_memory=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mini_batch_size", "mini_batch_num_tokens"])
def test_a_bad_size_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: expected a positive number"):
        Strategy(**{name: 0})


def test_budgets_resolve_to_bytes() -> None:
    assert resolve_activation_memory(123, "cpu") == 123
    half, auto = resolve_activation_memory(0.5, "cpu"), resolve_activation_memory("auto", "cpu")
    assert half > auto > 0
