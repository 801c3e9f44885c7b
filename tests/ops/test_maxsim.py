"""The MaxSim operator against the plain four-dimensional form, with hand-worked numbers and awkward lengths."""

import pytest
import torch
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.ops import maxsim as module
from omnitune.ops.maxsim import maxsim, token_maxima, xtr
from omnitune.types import Embeddings


def texts(lengths: list[int], dim: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dim, generator=generator, dtype=dtype) for n in lengths]


def plain(queries: list[Tensor], documents: list[Tensor], smooth: float | None = None) -> Tensor:
    def best(q: Tensor, d: Tensor) -> Tensor:
        if not len(d):
            return q.new_tensor(-1e9)
        found = q @ d.T
        return (found.amax(1) if smooth is None else smooth * (found / smooth).logsumexp(1)).sum()

    return torch.stack([torch.stack([best(q, d) for d in documents]) for q in queries])


@pytest.fixture(params=[(1 << 22, 4096), (40, 12)])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As large as they come; and so small that queries and documents are cut often."""
    monkeypatch.setattr(module, "BLOCK", request.param[0])
    monkeypatch.setattr(module, "DOCUMENT_TOKENS", request.param[1])


@pytest.mark.parametrize("smooth", [None, 0.5])
@pytest.mark.usefixtures("blocks")
def test_values_and_gradients_are_those_of_the_plain_form(smooth: float | None) -> None:
    leaves = [
        [t.requires_grad_() for t in texts(lengths, seed=seed)]
        for seed, lengths in enumerate(([3, 1, 5, 4], [7, 20, 1, 0, 19, 7]))
    ]
    weights = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    weights[:, 3] = 0  # a constant has no gradient
    expected = plain(*leaves, smooth=smooth)
    wanted = torch.autograd.grad((expected * weights).sum(), [*leaves[0], *leaves[1]], allow_unused=True)
    scores = maxsim(Embeddings.packed(leaves[0]), Embeddings.packed(leaves[1]), smooth=smooth)
    close = {"rtol": 1e-5, "atol": 1e-5} if smooth else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(scores.double(), expected, **close)
    found = torch.autograd.grad((scores * weights).sum(), [*leaves[0], *leaves[1]])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, **close)


@pytest.mark.parametrize("smooth", [None, 0.5])
@pytest.mark.usefixtures("blocks")
def test_named_pairs_are_those_of_all_pairs_with_their_gradients(smooth: float | None) -> None:
    leaves = [
        [t.requires_grad_() for t in texts(lengths, seed=seed)]
        for seed, lengths in enumerate(([3, 0, 5, 4], [7, 20, 1, 0, 19, 7]))
    ]
    everything = [*leaves[0], *leaves[1]]
    pairs = (torch.tensor([2, 0, 0, 3, 1, 2]), torch.tensor([1, 0, 5, 4, 2, 3]))
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0, 0.0], dtype=torch.float64)
    packed = Embeddings.packed(leaves[0]), Embeddings.packed(leaves[1])
    wanted = maxsim(*packed, smooth=smooth)[pairs]
    found = maxsim(*packed, pairs, smooth=smooth)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad((s * weights).sum(), everything, retain_graph=True) for s in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("blocks")
def test_a_search_streams_to_the_same_scores() -> None:
    queries, documents = texts([3, 1]), texts([0, 7, 20, 1, 0, 0, 19, 7, 0], seed=1)
    found = maxsim(Embeddings.packed(queries), Embeddings.packed(documents))
    torch.testing.assert_close(found, plain(queries, documents))


def test_a_worked_example_and_its_mean() -> None:
    query = Embeddings.packed([torch.tensor([[1.0, 0.0], [0.0, 2.0]])])
    documents = Embeddings.packed([torch.tensor([[0.5, 0.0], [0.0, 0.25]]), torch.tensor([[-1.0, -1.0]])])
    assert maxsim(query, documents).tolist() == [[1.0, -3.0]]
    assert maxsim(query, documents, mean=True).tolist() == [[0.5, -1.5]]


def test_padding_never_wins_and_empty_texts_have_their_scores() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    queries = Embeddings(torch.tensor([[[1.0], [9.0]], [[9.0], [9.0]]]), mask)
    documents = Embeddings(torch.tensor([[[-2.0], [5.0]], [[5.0], [5.0]]]), mask)
    assert maxsim(queries, documents).tolist() == [[-2.0, -1e9], [0.0, -1e9]]
    pairs = (torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]))
    assert maxsim(queries, documents, pairs).tolist() == [-2.0, 0.0, -1e9]


def test_ties_go_to_the_first_token() -> None:
    document = torch.tensor([[1.0], [1.0], [1.0]], requires_grad=True)
    maxsim(Embeddings.packed([torch.ones(1, 1)]), Embeddings.packed([document])).sum().backward()
    assert document.grad is not None
    assert document.grad.flatten().tolist() == [1.0, 0.0, 0.0]


def test_half_precision_is_added_up_in_float32() -> None:
    queries, documents = (Embeddings.packed(texts([300], seed=s, dtype=torch.float32)) for s in (0, 1))
    half = [e.to(torch.bfloat16) for e in (queries, documents)]
    exact = maxsim(*[e.to(torch.float32) for e in half])
    found = maxsim(*half)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, exact)


@pytest.mark.usefixtures("blocks")
def test_token_retrieval_counts_what_is_among_the_closest() -> None:
    query = [torch.tensor([[1.0, 0.0], [0.0, 1.0]])]
    documents = [torch.tensor([[0.9, 0.0], [0.8, 0.3]]), torch.tensor([[0.1, 0.5]]), torch.tensor([[0.2, 0.1]])]
    packed = Embeddings.packed(query), Embeddings.packed(documents)
    # The two closest of the first token are both of document 0; of the second token they are of documents 1 and 0.
    torch.testing.assert_close(xtr(*packed, top_k=2), torch.tensor([[0.6, 0.5, 0.0]]))
    torch.testing.assert_close(xtr(*packed, top_k=100), maxsim(*packed) / 2)
    torch.testing.assert_close(xtr(*packed, (torch.tensor([0]), torch.tensor([1])), top_k=2), torch.tensor([0.5]))
    with pytest.raises(InputError, match="top_k: expected a positive number of tokens, got 0"):
        xtr(*packed, top_k=0)


def test_nothing_in_nothing_out() -> None:
    none, one = Embeddings.packed([torch.zeros(0, 4)]), Embeddings.packed([torch.ones(2, 4)])
    assert maxsim(none, one).tolist() == [[0.0]]
    assert maxsim(one, none).tolist() == [[-1e9]]
    assert token_maxima(one, none).shape == (2, 1)
    assert maxsim(one[:0], one).shape == (0, 1)
    assert maxsim(one, one, (torch.zeros(0, dtype=torch.int64),) * 2).shape == (0,)


def test_what_are_no_token_vectors_of_one_dimension_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected token vectors .*, got dense \(2, 4\)"):
        maxsim(Embeddings(torch.ones(2, 4)), Embeddings.packed([torch.ones(2, 4)]))
    with pytest.raises(ShapeError, match="expected vectors of one dimension, got 4 and 3"):
        maxsim(Embeddings.packed([torch.ones(2, 4)]), Embeddings.packed([torch.ones(2, 3)]))
    with pytest.raises(InputError, match="smooth: expected a positive temperature or None, got 0"):
        maxsim(Embeddings.packed([torch.ones(2, 4)]), Embeddings.packed([torch.ones(2, 4)]), smooth=0)
