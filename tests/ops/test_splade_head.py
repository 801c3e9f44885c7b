"""SPLADE's head against the plain way: logits of every token, activation, maximum or sum."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from omnitune.errors import ShapeError
from omnitune.ops import splade_head as room
from omnitune.ops.splade_head import HeadMemory, splade_head
from omnitune.types import Embeddings

LENGTHS = [5, 1, 9, 4, 5, 0, 2]


def parts(dim: int = 6, vocabulary: int = 41) -> list[Tensor]:
    made = [torch.randn(sum(LENGTHS), dim), torch.randn(vocabulary, dim), torch.randn(vocabulary) - 1]
    return [part.double().requires_grad_() for part in made]


def packed(values: Tensor) -> Embeddings:
    return Embeddings(values, offsets=torch.tensor([0, *LENGTHS]).cumsum(0))


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, pooling: str, *, twice: bool) -> Tensor:
    logits = hidden @ weight.T + (0 if bias is None else bias)
    weights = logits.relu().log1p()
    weights = weights.log1p() if twice else weights
    rows = [row for row in weights.split(LENGTHS)]
    none = weights.new_zeros(weight.shape[0])
    take = (lambda row: row.max(dim=0).values) if pooling == "max" else (lambda row: row.sum(dim=0))
    return torch.stack([take(row) if len(row) else none for row in rows])


@pytest.fixture(params=["one block", "many blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many blocks":
        monkeypatch.setitem(room.ELEMENTS, "cpu", 1)
        monkeypatch.setattr(room, "_SMALLEST_BLOCK", 7)
        monkeypatch.setitem(room.TOKENS, "cpu", 8)
        monkeypatch.setattr(room, "ENTRIES_AT_ONCE", 30)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("advantage", [0, 1 << 30], ids=["by entries", "by products"])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_the_plain_ones(
    pooling: str, twice: bool, biased: bool, advantage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "DENSE_ADVANTAGE", advantage)
    hidden, weight, bias = parts()
    given = [hidden, weight, *([bias] if biased else [])]
    made = splade_head(packed(hidden), weight, bias if biased else None, pooling=pooling, twice=twice)  # type: ignore[arg-type]
    wanted = plain(hidden, weight, bias if biased else None, pooling, twice=twice)
    torch.testing.assert_close(made, wanted)
    assert 0.1 < float((made > 0).double().mean()) < 0.9
    gradient = torch.randn_like(made)
    found = torch.autograd.grad(made, given, gradient)
    for one, other in zip(found, torch.autograd.grad(wanted, given, gradient), strict=True):
        torch.testing.assert_close(one, other)


def test_a_replay_makes_no_product_with_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias = parts()
    memory = HeadMemory()
    with torch.no_grad():
        first = splade_head(packed(hidden), weight, bias, memory=memory)
    wanted = torch.autograd.grad(splade_head(packed(hidden), weight, bias).sum(), [hidden, weight, bias])
    monkeypatch.setattr(room, "_pooled", None)
    again = splade_head(packed(hidden), weight, bias, memory=memory)
    torch.testing.assert_close(again.detach(), first)
    for one, other in zip(torch.autograd.grad(again.sum(), [hidden, weight, bias]), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, bias = parts()
    made = splade_head(packed(hidden), weight.detach(), bias.detach())
    made.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert weight.grad is None


def test_products_are_in_half_precision_under_autocast() -> None:
    hidden, weight, bias = (part.detach().float() for part in parts())
    exact = splade_head(packed(hidden), weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = splade_head(packed(hidden), weight, bias)
    assert rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).abs().max()) < 0.1


def test_states_of_another_form_are_refused() -> None:
    hidden, weight, bias = parts()
    with pytest.raises(ShapeError, match="hidden: expected packed states of the head's dimension 6"):
        splade_head(Embeddings(hidden), weight, bias)


@pytest.mark.parametrize("winner", [0, 1, 298, 299])
def test_the_token_that_wins_learns_in_half_precision(winner: int) -> None:
    hidden = torch.zeros(300, 1)
    hidden[winner] = 2
    hidden.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        made = splade_head(Embeddings(hidden, offsets=torch.tensor([0, 300])), torch.ones(1, 1), None)
    made.sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None and hidden.grad.nonzero()[:, 0].tolist() == [winner]


def test_a_token_that_pads_never_learns() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([8, 11, 9, 9])
    hidden = torch.randn(37, 32, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4000, 32, dtype=torch.float64)
    made = splade_head(Embeddings(hidden, offsets=F.pad(lengths.cumsum(0), (1, 0))), weight, None)
    rows = [(row @ weight.T).relu().log1p().amax(dim=0) for row in hidden.split(lengths.tolist())]
    found, wanted = (torch.autograd.grad(each.sum(), hidden)[0] for each in (made, torch.stack(rows)))
    torch.testing.assert_close(found, wanted)
