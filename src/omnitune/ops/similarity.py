"""Similarities of embeddings: of all pairs, row by row, and at every nested dimension in one pass.

Names, accepted inputs and results are those of `sentence_transformers.util` for dense and sparse embeddings. Higher is
closer everywhere, so distances are negative. Half-precision and integer inputs are compared in float32. Results are
dense.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from omnitune.errors import InputError, ShapeError
from omnitune.ops import sparse
from omnitune.ops.token_similarity import maxsim, maxsim_pairwise, mean_maxsim, mean_maxsim_pairwise
from omnitune.types import Embeddings

__all__ = [
    "Similarity",
    "SimilarityFunction",
    "Vectors",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "manhattan_sim",
    "nested_similarity",
    "normalize_embeddings",
    "pairwise_angle_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
]

Vectors: TypeAlias = Tensor | NDArray[Any] | Sequence[Any] | Embeddings
"""Embeddings as a tensor, dense or sparse (COO), an array, or a list of numbers, lists, arrays or tensors; or
`Embeddings`, dense or csr."""

Similarity: TypeAlias = Callable[[Vectors, Vectors], Tensor]

_SMALLEST_NORM = 1e-12  # what torch.nn.functional.normalize divides by at least


def cos_sim(a: Vectors, b: Vectors) -> Tensor:
    """Cosine of the angle between every row of `a` and every row of `b`.

    Args:
        a: `(n, dim)`, or `(dim,)` for one row.
        b: `(m, dim)`, or `(dim,)` for one row.

    Returns:
        `(n, m)` in [-1, 1]; 0 where a row is zero.

    Example:
        >>> cos_sim([[1.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]])
        tensor([[1., 0.]])
    """
    return dot_score(normalize_embeddings(_rows(a)), normalize_embeddings(_rows(b)))


def dot_score(a: Vectors, b: Vectors) -> Tensor:
    """Dot product of every row of `a` `(n, dim)` with every row of `b` `(m, dim)`: `(n, m)`.

    Example:
        >>> dot_score([[1.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]])
        tensor([[3., 2.]])
    """
    a, b = _both(a, b)
    return sparse.products(a, b) if a.is_sparse or b.is_sparse else a @ b.T


def euclidean_sim(a: Vectors, b: Vectors) -> Tensor:
    """Negative Euclidean distance of rows of `a` `(n, dim)` from rows of `b` `(m, dim)`: `(n, m)`, at most 0.

    Example:
        >>> euclidean_sim([[0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]])
        tensor([[-5., -1.]])
    """
    a, b = _both(a, b)
    return -(sparse.euclidean_distances(a, b) if a.is_sparse or b.is_sparse else torch.cdist(a, b, p=2.0))


def manhattan_sim(a: Vectors, b: Vectors) -> Tensor:
    """Negative Manhattan distance of rows of `a` `(n, dim)` from rows of `b` `(m, dim)`: `(n, m)`, at most 0.

    Example:
        >>> manhattan_sim([[0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]])
        tensor([[-7., -1.]])
    """
    a, b = _both(a, b)
    return -(sparse.manhattan_distances(a, b) if a.is_sparse or b.is_sparse else torch.cdist(a, b, p=1.0))


def pairwise_cos_sim(a: Vectors, b: Vectors) -> Tensor:
    """Cosine of the angle between row i of `a` and row i of `b`, both `(n, dim)`: `(n,)` in [-1, 1].

    Example:
        >>> pairwise_cos_sim([[1.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [0.6, 0.8]])
        tensor([1.0000, 0.6000])
    """
    return pairwise_dot_score(normalize_embeddings(_tensor(a)), normalize_embeddings(_tensor(b)))


def pairwise_dot_score(a: Vectors, b: Vectors) -> Tensor:
    """Dot product of row i of `a` and row i of `b`, both `(n, dim)`: `(n,)`.

    Example:
        >>> pairwise_dot_score([[1.0, 2.0], [1.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]])
        tensor([3., 2.])
    """
    a, b = _tensor(a), _tensor(b)
    return sparse.row_sums(sparse.product(a, b)) if a.is_sparse or b.is_sparse else (a * b).sum(dim=-1)


def pairwise_euclidean_sim(a: Vectors, b: Vectors) -> Tensor:
    """Negative Euclidean distance of row i of `a` from row i of `b`, both `(n, dim)`: `(n,)`, at most 0.

    Example:
        >>> pairwise_euclidean_sim([[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]])
        tensor([-5., -1.])
    """
    a, b = _tensor(a), _tensor(b)
    if a.is_sparse or b.is_sparse:
        return -sparse.row_sums(sparse.difference(a, b).square()).sqrt()
    distance: Tensor = torch.linalg.vector_norm(a - b, dim=-1)
    return -distance


def pairwise_manhattan_sim(a: Vectors, b: Vectors) -> Tensor:
    """Negative Manhattan distance of row i of `a` from row i of `b`, both `(n, dim)`: `(n,)`, at most 0.

    Example:
        >>> pairwise_manhattan_sim([[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 1.0]])
        tensor([-7., -1.])
    """
    a, b = _tensor(a), _tensor(b)
    if a.is_sparse or b.is_sparse:
        return -sparse.row_sums(sparse.difference(a, b).abs())
    return -(a - b).abs().sum(dim=-1)


def pairwise_angle_sim(x: Vectors, y: Vectors) -> Tensor:
    """Similarity of angle of row i of `x` and row i of `y`, read as complex vectors.

    The first half of a row holds real parts, the second half imaginary ones (an odd `dim` gets a zero more). Unlike the
    cosine it has no flat tops, where gradients vanish.

    Args:
        x: `(n, dim)`.
        y: `(n, dim)`.

    Returns:
        `(n,)`, at least 0.

    Source:
        Li and Li 2024, AoE, section 3.2 (aclanthology.org/2024.acl-long.101), as `sentence_transformers.util` computes
        it: the absolute sum of real and imaginary parts of x times the conjugate of y, over unit-length rows.

    Example:
        >>> pairwise_angle_sim([[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.6, 0.8]])
        tensor([1.0000, 0.2000])
    """
    halves = []
    for rows in (_rows(x), _rows(y)):
        rows = rows.to_dense()
        even = F.pad(rows, (0, rows.shape[1] % 2))
        halves.append(normalize_embeddings(even).chunk(2, dim=1))
    (a, b), (c, d) = halves
    return (a * c + b * d + b * c - a * d).sum(dim=1).abs()


def normalize_embeddings(embeddings: Tensor) -> Tensor:
    """Rows of `embeddings` `(..., dim)`, dense or sparse, scaled to unit length; zero rows stay zero.

    Example:
        >>> normalize_embeddings(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    if embeddings.is_sparse:
        return sparse.unit_rows(embeddings, _SMALLEST_NORM)
    return F.normalize(embeddings, dim=-1, eps=_SMALLEST_NORM)


class SimilarityFunction(Enum):
    """Similarities by the name that a checkpoint stores.

    Example:
        >>> compare = SimilarityFunction.to_similarity_fn("dot")
        >>> compare([[1.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]])
        tensor([[3., 2.]])
        >>> SimilarityFunction.possible_values()
        ['cosine', 'dot', 'euclidean', 'manhattan', 'maxsim', 'meanmaxsim']
    """

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"
    MAXSIM = "maxsim"
    MEAN_MAXSIM = "meanmaxsim"

    @classmethod
    def _missing_(cls, value: object) -> "SimilarityFunction":
        raise InputError(f"similarity: expected one of {', '.join(cls.possible_values())}, got {value!r}")

    @staticmethod
    def to_similarity_fn(similarity_function: "str | SimilarityFunction") -> Similarity:
        """The function `(n, dim), (m, dim) -> (n, m)` of a name or member.

        Raises:
            InputError: No similarity has that name.
        """
        return _ALL_PAIRS[SimilarityFunction(similarity_function)]

    @staticmethod
    def to_similarity_pairwise_fn(similarity_function: "str | SimilarityFunction") -> Similarity:
        """The function `(n, dim), (n, dim) -> (n,)` of a name or member.

        Raises:
            InputError: No similarity has that name.
        """
        return _PAIRWISE[SimilarityFunction(similarity_function)]

    @staticmethod
    def possible_values() -> list[str]:
        """Every name."""
        return [member.value for member in SimilarityFunction]


_ALL_PAIRS: dict[SimilarityFunction, Similarity] = {
    SimilarityFunction.COSINE: cos_sim,
    SimilarityFunction.DOT_PRODUCT: dot_score,
    SimilarityFunction.EUCLIDEAN: euclidean_sim,
    SimilarityFunction.MANHATTAN: manhattan_sim,
    SimilarityFunction.MAXSIM: maxsim,
    SimilarityFunction.MEAN_MAXSIM: mean_maxsim,
}
_PAIRWISE: dict[SimilarityFunction, Similarity] = {
    SimilarityFunction.COSINE: pairwise_cos_sim,
    SimilarityFunction.DOT_PRODUCT: pairwise_dot_score,
    SimilarityFunction.EUCLIDEAN: pairwise_euclidean_sim,
    SimilarityFunction.MANHATTAN: pairwise_manhattan_sim,
    SimilarityFunction.MAXSIM: maxsim_pairwise,
    SimilarityFunction.MEAN_MAXSIM: mean_maxsim_pairwise,
}


def nested_similarity(
    a: Tensor, b: Tensor, dims: Sequence[int], kind: Literal["cosine", "dot"] = "cosine"
) -> list[Tensor]:
    """Similarities on the first `d` dimensions for every `d` in `dims`, sharing all work between them.

    The product over d columns is the product over the next smaller d plus that of the columns between, and so are the
    squared norms: 768, 512, 256, 128 and 64 cost 768 columns of multiplication instead of 1728.

    Args:
        a: `(n, dim)`, any length of row.
        b: `(m, dim)`.
        dims: Numbers of leading dimensions, in any order.
        kind: "cosine" compares truncations scaled back to unit length; "dot" compares them as they are.

    Returns:
        `(n, m)` for each of `dims`, in their order; float32 at least, also under autocast.

    Raises:
        ShapeError: A number in `dims` is below 1 or above `dim`.
        InputError: `kind` is neither "cosine" nor "dot".

    Source:
        Must agree with `cos_sim(a[:, :d], b[:, :d])`; Kusupati et al. 2022, eq. 1 (arXiv:2205.13147).
    """
    if kind not in ("cosine", "dot"):
        raise InputError(f'kind: expected "cosine" or "dot", got {kind!r}')
    width = a.shape[-1]
    if b.shape[-1] != width or not all(0 < d <= width for d in dims):
        raise ShapeError(
            f"dims: expected numbers from 1 to the embedding dimension, got {list(dims)} "
            f"for embeddings {tuple(a.shape)} and {tuple(b.shape)}"
        )
    edges = sorted(set(dims))
    sizes = [high - low for low, high in zip([0, *edges], edges, strict=False)]
    with torch.autocast(a.device.type, enabled=False):
        blocks_a, blocks_b = (torch.split(_rows(x)[:, : edges[-1]], sizes, dim=1) for x in (a, b))
        products = [blocks_a[0] @ blocks_b[0].T]
        for x, y in zip(blocks_a[1:], blocks_b[1:], strict=True):
            products.append(torch.addmm(products[-1], x, y.T))
        if kind == "cosine":
            scales = zip(_inverse_norms(blocks_a), _inverse_norms(blocks_b), strict=True)
            products = [p * (x[:, None] * y) for p, (x, y) in zip(products, scales, strict=True)]
    return [products[edges.index(d)] for d in dims]


def _inverse_norms(blocks: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One over the norm `(rows,)` of the columns up to and including each block."""
    squares = torch.stack([block.square().sum(dim=1) for block in blocks]).cumsum(dim=0)
    # Clamped before the root: the root of zero has no finite derivative.
    return squares.clamp_min(_SMALLEST_NORM**2).rsqrt().unbind()


def _tensor(vectors: Vectors) -> Tensor:
    if isinstance(vectors, Embeddings):
        vectors = vectors.coo() if vectors.layout == "csr" else vectors.values
    if isinstance(vectors, Tensor):
        tensor = vectors
    elif isinstance(vectors, np.ndarray):
        # Shared where torch can: a corpus may not fit twice. Torch warns about read-only arrays.
        if vectors.dtype.kind not in "fiub":
            raise _no_numbers(vectors)
        tensor = torch.from_numpy(vectors) if vectors.flags.writeable else torch.tensor(vectors)
    elif len(vectors) > 0 and all(isinstance(row, Tensor | np.ndarray) for row in vectors):
        tensor = torch.stack([_tensor(row) for row in vectors])
    else:
        try:
            tensor = torch.tensor(vectors)
        except (TypeError, ValueError, RuntimeError) as error:
            raise _no_numbers(vectors) from error
    # Integers too: a dot product of int8 embeddings does not fit in int8.
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _no_numbers(vectors: Any) -> InputError:
    return InputError(f"embeddings: expected rows of numbers, as model.encode(texts) gives them, got {vectors!r:.80}")


def _both(a: Vectors, b: Vectors) -> tuple[Tensor, Tensor]:
    """Rows of both sides, which have as many dimensions."""
    first, second = _rows(a), _rows(b)
    if first.shape[-1] != second.shape[-1]:
        raise ShapeError(
            f"embeddings: expected as many dimensions on both sides, got {first.shape[-1]} and {second.shape[-1]}"
        )
    return first, second


def _rows(vectors: Vectors) -> Tensor:
    tensor = _tensor(vectors)
    return tensor[None] if tensor.dim() == 1 else tensor
