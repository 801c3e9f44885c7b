"""Similarities of sparse rows: torch's COO tensors, as a sparse encoder returns them, or one side dense.

Nothing of `(rows, dim)` is made dense but some rows at a time: a row of 100 non-zeros takes 1.6 kB, and 122 kB dense.
"""

import warnings

import torch
from torch import Tensor

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
