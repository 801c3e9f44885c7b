"""Sparse vectors of a wide vocabulary: CSR rows, the largest entries of each, products and distances.

Nothing of `(rows, dim)` is made dense but some rows at a time: a row of 100 non-zeros takes 1.6 kB, and 122 kB dense.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from omnitune import runtime
from omnitune.errors import InputError, ShapeError
from omnitune.types import Embeddings

SparseVectors = Any
"""Sparse or dense tensors `(rows, dim)` or `(dim,)`, a list of rows, arrays, or csr `Embeddings`."""


def as_csr(vectors: SparseVectors) -> Embeddings:
    """CSR rows of sparse or dense vectors in any form.

    Args:
        vectors: A tensor (COO, CSR or dense) `(rows, dim)` or `(dim,)`, a list of rows, an array, or `Embeddings`.

    Raises:
        ShapeError: They have more than two axes.
    """
    if isinstance(vectors, Embeddings):
        return vectors if vectors.layout == "csr" else Embeddings.csr(vectors.values)
    if isinstance(vectors, Sequence) and len(vectors) and isinstance(vectors[0], Tensor):
        return Embeddings.cat([as_csr(row) for row in vectors])
    tensor = vectors if isinstance(vectors, Tensor) else torch.as_tensor(vectors)
    if tensor.layout is torch.sparse_csr:
        return Embeddings(tensor.values(), None, tensor.crow_indices().cpu(), tensor.col_indices(), tensor.shape[1])
    if tensor.ndim not in (1, 2):
        raise ShapeError(f"embeddings: expected (rows, dim) or (dim,), got the shape {tuple(tensor.shape)}")
    return Embeddings.csr(tensor if tensor.ndim == 2 else tensor[None] if not tensor.is_sparse else tensor.unsqueeze(0))


def top_entries(rows: Embeddings, count: int) -> Embeddings:
    """The `count` entries of largest magnitude of every CSR row, signs kept.

    Args:
        rows: csr.
        count: Entries a row keeps at most.
    """
    lengths = rows.lengths
    longest = int(lengths.max()) if len(rows) else 0
    if longest <= count or rows.indices is None:
        return rows
    device = rows.values.device
    mask = torch.arange(longest, device=device) < lengths.to(device)[:, None]
    size = torch.full(mask.shape, -1.0, dtype=rows.values.dtype, device=device)
    size = size.masked_scatter(mask, rows.values.abs())
    kept = torch.zeros_like(mask).scatter_(1, size.topk(count, dim=1).indices, value=True) & mask
    taken = kept[mask]
    offsets = F.pad(kept.sum(dim=1).cpu().cumsum(0), (1, 0))
    return Embeddings(rows.values[taken], None, offsets, rows.indices[taken], rows.dim)


def shared_entries(one: Embeddings, others: Embeddings) -> Embeddings:
    """Products above zero of the one row's entries with those of every other row.

    Args:
        one: csr, one row.
        others: csr `(rows, dim)`.

    Returns:
        csr in the shape of `others`.

    Raises:
        ShapeError: They differ in dimension.
    """
    if one.dim != others.dim:
        raise ShapeError(f"embeddings_2: expected the dimension {one.dim} of embeddings_1, got {others.dim}")
    assert one.indices is not None and others.indices is not None
    weights = others.values.new_zeros(one.dim or 0).index_copy(0, one.indices, one.values.to(others.values))
    values = others.values * weights[others.indices]
    kept = values > 0
    rows = torch.repeat_interleave(torch.arange(len(others)), others.lengths).to(kept.device)[kept]
    offsets = F.pad(torch.bincount(rows.cpu(), minlength=len(others)).cumsum(0), (1, 0))
    return Embeddings(values[kept], None, offsets, others.indices[kept], others.dim)


def select_max_active_dims(embeddings: Any, max_active_dims: int | None) -> Any:
    """Zero all but the entries of largest magnitude of every row; signs are kept.

    Args:
        embeddings: Dense or sparse COO tensor, or an array, `(rows, dim)` or `(dim,)`.
        max_active_dims: Entries a row keeps at most; None returns the embeddings as they are.

    Returns:
        A tensor of the same layout and shape.

    Raises:
        InputError: `max_active_dims` is not positive.

    Example:
        >>> select_max_active_dims(torch.tensor([[3.0, -4.0, 1.0]]), 2)
        tensor([[ 3., -4.,  0.]])
    """
    if max_active_dims is None:
        return embeddings
    if max_active_dims <= 0:
        raise InputError(f"max_active_dims: expected a positive number, got {max_active_dims}")
    embeddings = torch.as_tensor(embeddings)
    rows = top_entries(as_csr(embeddings), max_active_dims).coo()
    rows = rows if embeddings.ndim == 2 else rows[0]
    return rows if embeddings.is_sparse else rows.to_dense()


def compute_count_vector(embeddings: Tensor) -> Tensor:
    """Count the rows in which each dimension is active.

    Args:
        embeddings: Dense or sparse COO `(rows, dim)` or `(dim,)`.

    Returns:
        Counts `(dim,)`, int32.

    Example:
        >>> compute_count_vector(torch.tensor([[0.5, 0.0, 0.0], [0.1, 0.0, 2.0]]))
        tensor([2, 0, 1], dtype=torch.int32)
    """
    rows = as_csr(embeddings)
    assert rows.indices is not None
    return torch.bincount(rows.indices.long(), minlength=embeddings.shape[-1]).int()


def to_scipy_coo(x: Tensor) -> Any:
    """Copy a sparse COO tensor `(rows, dim)` into a `scipy.sparse.coo_matrix`; needs the extra `late`, which has scipy.

    Example:
        >>> to_scipy_coo(torch.eye(2).to_sparse()).toarray()
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    runtime.require("scipy", extra="late")
    from scipy.sparse import coo_matrix

    x = x.detach().coalesce().cpu()
    values = x.values().float() if x.dtype == torch.bfloat16 else x.values()  # numpy has no bfloat16
    return coo_matrix((values.numpy(), tuple(x.indices().numpy())), shape=tuple(x.shape))


_NUMBERS_AT_ONCE = 1 << 24
"""Numbers that are made dense at a time: 64 MB."""


def products(a: Tensor, b: Tensor) -> Tensor:
    """Compute the dot products of all rows.

    Args:
        a: `(n, dim)`, sparse or dense.
        b: `(m, dim)`, sparse or dense.

    Returns:
        `(n, m)`, dense.
    """
    if not b.is_sparse:
        return products(b, a).T if a.is_sparse else a @ b.T
    if b.device.type == "cpu" and not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]  # torch's own
        # Rows in compressed form need MKL on a CPU; without it, this is five times slower.
        return (a.to_sparse() @ b.T).to_dense()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        held = b.to_sparse_csr()
    found = a.new_empty(len(a), len(b), layout=torch.strided)
    step = max(1, _NUMBERS_AT_ONCE // max(1, a.shape[1]))
    for start in range(0, len(a), step):
        found[start : start + step] = (held @ dense_rows(a, start, start + step).T).T
    return found


def dense_rows(a: Tensor, start: int, stop: int) -> Tensor:
    """Make some rows of a sparse or dense matrix dense."""
    if not a.is_sparse:
        return a[start:stop]
    stop = min(stop, len(a))
    whole = stop - start == len(a)
    return (a if whole else a.index_select(0, torch.arange(start, stop, device=a.device))).to_dense()


def unit_rows(a: Tensor, smallest: float) -> Tensor:
    """Scale sparse rows `(rows, dim)` or one `(dim,)` to unit length; zero rows stay zero."""
    a = a.coalesce()
    values, places = a.values(), a.indices()
    row = torch.zeros_like(places[0]) if a.dim() == 1 else places[0]
    squares = values.new_zeros(1 if a.dim() == 1 else len(a)).index_add(0, row, values.square())
    scaled = values / squares.sqrt().clamp_min(smallest)[row]
    return torch.sparse_coo_tensor(places, scaled, a.shape, is_coalesced=True, check_invariants=False)


def row_sums(a: Tensor) -> Tensor:
    """Sum over the last axis of a sparse tensor; dense."""
    return a.sum(dim=-1).to_dense()


def euclidean_distances(a: Tensor, b: Tensor) -> Tensor:
    """Compute the Euclidean distances of all rows `(n, m)`."""
    squares = [row_sums(one.to_sparse().coalesce().square()) for one in (a, b)]
    # Squares of distances of equal rows can come out slightly below zero.
    return (squares[0][:, None] - 2 * products(a, b) + squares[1]).clamp_min(0).sqrt()


def manhattan_distances(a: Tensor, b: Tensor) -> Tensor:
    """Compute the Manhattan distances of all rows `(n, m)`, over the columns that some row uses."""
    a, b = a.to_sparse().coalesce(), b.to_sparse().coalesce()
    columns: Tensor = torch.unique(torch.cat([a.indices()[1], b.indices()[1]]))
    first, second = (_narrowed(one, columns) for one in (a, b))
    step = max(1, _NUMBERS_AT_ONCE // max(1, len(columns)))
    parts = [
        torch.cdist(first.to_dense(), dense_rows(second, start, start + step), p=1.0)
        for start in range(0, len(b), step)
    ]
    return torch.cat(parts, dim=1) if parts else first.to_dense().new_zeros(len(a), 0)


def _narrowed(a: Tensor, columns: Tensor) -> Tensor:
    """Keep rows over sorted `columns` alone, which are all that they use."""
    row, column = a.indices()
    places = torch.stack([row, torch.searchsorted(columns, column)])
    return torch.sparse_coo_tensor(
        places, a.values(), (len(a), len(columns)), is_coalesced=True, check_invariants=False
    )


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Subtract matrices of which one is sparse; sparse."""
    return (a.to_sparse() - b.to_sparse()).coalesce()


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices of which one is sparse, number by number; sparse."""
    return a.to_sparse().coalesce() * b.to_sparse().coalesce()
