import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from omnitune.errors import InputError, ShapeError
from omnitune.ops import similarity
from omnitune.ops.similarity import SimilarityFunction, cos_sim, nested_similarity, pairwise_angle_sim

A = [[3.0, 4.0], [1.0, 0.0]]
B = [[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]
ALL_PAIRS = ("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim")
PAIRWISE = tuple(f"pairwise_{name}" for name in ALL_PAIRS)


def forms(rows):
    """The same embeddings in every accepted form."""
    tensor, array = torch.tensor(rows), np.array(rows, dtype=np.float32)
    frozen = array.copy()
    frozen.flags.writeable = False
    return [rows, array, frozen, tensor, list(array), list(tensor), tensor.half(), tensor.bfloat16(), tensor.int()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cos_sim", [[1.0, 0.8, 0.0], [0.6, 0.0, 0.0]]),
        ("dot_score", [[25.0, 8.0, 0.0], [3.0, 0.0, 0.0]]),
        ("euclidean_sim", [[0.0, -(13**0.5), -5.0], [-(20**0.5), -(5**0.5), -1.0]]),
        ("manhattan_sim", [[0.0, -5.0, -7.0], [-6.0, -3.0, -1.0]]),
    ],
)
def test_all_pairs_by_hand(name, expected):
    for a in forms(A):
        for b in forms(B):
            result = getattr(similarity, name)(a, b)
            assert result.dtype == torch.float32
            assert torch.allclose(result, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("name", ALL_PAIRS)
def test_pairwise_is_the_diagonal(name):
    a, b = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    pairwise = getattr(similarity, f"pairwise_{name}")
    assert torch.allclose(pairwise(a, b), getattr(similarity, name)(a, b).diag(), atol=1e-6)
    assert torch.allclose(pairwise(a[0], b[0]), pairwise(a, b)[0])


@pytest.mark.parametrize("name", ALL_PAIRS)
def test_one_vector_is_one_row(name):
    function = getattr(similarity, name)
    assert torch.equal(function(A[0], B), function([A[0]], B))
    assert function(A[0], B[0]).shape == (1, 1)


def test_int8_embeddings_do_not_overflow():
    a = np.full((1, 100), 100, dtype=np.int8)
    assert similarity.dot_score(a, a).item() == 1_000_000


def test_angle_by_hand():
    # 1 and i as complex numbers of one part each: x conj(y) = -i, so real + imaginary parts sum to -1.
    assert pairwise_angle_sim([[1.0, 0.0]], [[0.0, 1.0]]).item() == pytest.approx(1.0)
    assert pairwise_angle_sim([[1.0, 0.0]], [[1.0, 0.0]]).item() == pytest.approx(1.0)
    assert pairwise_angle_sim([[1.0, 1.0]], [[1.0, 0.0]]).item() == pytest.approx(2**0.5)
    assert pairwise_angle_sim([[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]).item() == pytest.approx(0.0)


DENSE = ["cosine", "dot", "euclidean", "manhattan"]


def test_function_by_name():
    assert SimilarityFunction.possible_values() == [*DENSE, "maxsim", "meanmaxsim"]
    assert SimilarityFunction.DOT is SimilarityFunction.DOT_PRODUCT
    for name, function, pairwise in zip(DENSE, ALL_PAIRS, PAIRWISE, strict=True):
        assert SimilarityFunction.to_similarity_fn(name) is getattr(similarity, function)
        assert SimilarityFunction.to_similarity_pairwise_fn(SimilarityFunction(name)) is getattr(similarity, pairwise)


@pytest.mark.parametrize("convert", [SimilarityFunction.to_similarity_fn, SimilarityFunction.to_similarity_pairwise_fn])
def test_unknown_name(convert):
    with pytest.raises(InputError, match="similarity: expected one of cosine, dot, .*, meanmaxsim, got 'cosin'"):
        convert("cosin")


def test_nested_by_hand():
    small, large = nested_similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), [1, 2])
    assert small.item() == 0.0  # the one dimension of b is zero
    assert large.item() == pytest.approx(0.8)
    plain = nested_similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]]), [2, 1], kind="dot")
    assert [p.item() for p in plain] == [11.0, 3.0]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    width=st.integers(1, 40),
    data=st.data(),
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(("cosine", "dot")),
)
def test_nested_equals_truncation(rows, width, data, seed, kind):
    dims = data.draw(st.lists(st.integers(1, width), min_size=1, max_size=6))
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, width, generator=generator) * 3 for n in rows)
    a[0, : width // 2] = 0  # a prefix without length
    leaves = [x.requires_grad_() for x in (a, b)]
    together = nested_similarity(a, b, dims, kind)
    alone = [cos_sim(a[:, :d], b[:, :d]) if kind == "cosine" else a[:, :d] @ b[:, :d].T for d in dims]
    weights = [torch.randn(s.shape, generator=generator) for s in together]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)
    if kind == "cosine" and width > 1:
        return  # the gradient at a zero prefix is 1e12 times the signal; the next test has it without
    ours = torch.autograd.grad(sum((s * w).sum() for s, w in zip(together, weights, strict=True)), leaves)
    theirs = torch.autograd.grad(sum((s * w).sum() for s, w in zip(alone, weights, strict=True)), leaves)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=30)
@given(width=st.integers(2, 40), data=st.data(), seed=st.integers(0, 2**16))
def test_nested_gradients_equal_truncation(width, data, seed):
    dims = data.draw(st.lists(st.integers(1, width), min_size=1, max_size=6))
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(n, width, generator=generator, dtype=torch.float64).requires_grad_() for n in (4, 7))
    weights = [torch.randn(4, 7, generator=generator) for _ in dims]
    together = sum((s * w).sum() for s, w in zip(nested_similarity(a, b, dims), weights, strict=True))
    unit = [(F.normalize(a[:, :d], dim=1), F.normalize(b[:, :d], dim=1)) for d in dims]
    alone = sum(((x @ y.T) * w).sum() for (x, y), w in zip(unit, weights, strict=True))
    for one, other in zip(torch.autograd.grad(together, [a, b]), torch.autograd.grad(alone, [a, b]), strict=True):
        assert torch.allclose(one, other, atol=1e-10, rtol=1e-8)


def test_nested_gradcheck():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(n, 5, generator=generator, dtype=torch.float64).requires_grad_() for n in (2, 3))
    assert torch.autograd.gradcheck(lambda x, y: nested_similarity(x, y, [5, 2, 3]), (a, b))


def test_zero_rows_have_finite_gradients():
    a = torch.zeros(2, 4, requires_grad=True)
    sum(s.sum() for s in nested_similarity(a, torch.ones(3, 4), [4, 2])).backward()
    assert torch.isfinite(a.grad).all()


def test_nested_keeps_float32_under_autocast():
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(4, 64, generator=generator) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nested_similarity(a, b, [64, 16])
    for one, other in zip(inside, nested_similarity(a, b, [64, 16]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dims", ([9], [0, 4]))
def test_nested_dimensions_must_fit(dims):
    with pytest.raises(ShapeError, match=rf"dims: expected numbers from 1 to the embedding dimension, got \{dims}"):
        nested_similarity(torch.ones(2, 8), torch.ones(2, 8), dims)


def test_nested_kind():
    with pytest.raises(InputError, match='kind: expected "cosine" or "dot", got \'euclidean\''):
        nested_similarity(torch.ones(2, 8), torch.ones(2, 8), [4], kind="euclidean")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", (*ALL_PAIRS, *PAIRWISE, "pairwise_angle_sim"))
def test_equal_to_sentence_transformers(name):
    util = pytest.importorskip("sentence_transformers.util")
    generator = torch.Generator().manual_seed(3)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        a, b = (torch.randn(4, 7, generator=generator).to(dtype) for _ in range(2))
        ours, theirs = getattr(similarity, name)(a, b), getattr(util, name)(a, b)
        assert ours.dtype == theirs.dtype
        assert torch.allclose(ours, theirs, atol=1e-6)
        if dtype == torch.float32:
            assert torch.equal(ours, getattr(similarity, name)(a.numpy(), b.tolist()))
