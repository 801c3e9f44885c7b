"""Sparse vectors of a wide vocabulary: CSR rows, their similarities, and the largest entries of each.

Work is done on the columns that rows have, a few hundred of the tens of thousands of a vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from omnitune.errors import ShapeError
from omnitune.ops.similarity import SimilarityFunction
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


def select_max_active_dims(embeddings: Tensor, max_active_dims: int) -> Tensor:
    """Zero all but the entries of largest magnitude of every row; signs are kept.

    Args:
        embeddings: Dense or sparse COO `(rows, dim)` or `(dim,)`.
        max_active_dims: Entries a row keeps at most.

    Returns:
        The same layout and shape.

    Example:
        >>> select_max_active_dims(torch.tensor([[3.0, -4.0, 1.0]]), 2)
        tensor([[ 3., -4.,  0.]])
    """
    rows = top_entries(as_csr(embeddings), max_active_dims).coo()
    rows = rows if embeddings.ndim == 2 else rows[0]
    return rows if embeddings.is_sparse else rows.to_dense()


def similarity(name: str, first: SparseVectors, second: SparseVectors) -> Tensor:
    """Similarity of every row of the first with every row of the second `(n, m)`, float32.

    Args:
        name: "cosine", "dot", "euclidean" or "manhattan".
        first: `n` rows in any form.
        second: `m` rows.

    Raises:
        ShapeError: They differ in dimension.
    """
    one, other = _on_shared_columns(as_csr(first), as_csr(second))
    return SimilarityFunction.to_similarity_fn(name)(one, other)


def similarity_pairwise(name: str, first: SparseVectors, second: SparseVectors) -> Tensor:
    """Similarity of row i of the first with row i of the second `(n,)`, float32; otherwise as `similarity`."""
    one, other = _on_shared_columns(as_csr(first), as_csr(second))
    return SimilarityFunction.to_similarity_pairwise_fn(name)(one, other)


def _on_shared_columns(first: Embeddings, second: Embeddings) -> tuple[Tensor, Tensor]:
    """Both densely, on the columns that either has; columns of zeros change no similarity."""
    assert first.indices is not None and second.indices is not None
    if first.dim != second.dim:
        raise ShapeError(f"embeddings: expected equal dimensions, got {first.dim} and {second.dim}")
    device = first.values.device
    columns, places = torch.unique(torch.cat([first.indices, second.indices.to(device)]), return_inverse=True)
    made = []
    for rows, own in zip((first, second), places.split([len(first.indices), len(second.indices)]), strict=True):
        dense = torch.zeros(len(rows), max(len(columns), 1), device=device)
        row = torch.repeat_interleave(torch.arange(len(rows)), rows.lengths).to(device)
        dense[row, own] = rows.values.to(device, torch.float32)
        made.append(dense)
    return made[0], made[1]
