"""Late-interaction scores in the forms that Sentence Transformers' callers give and expect; all are `ops.maxsim`.

Token vectors come as a list of `(tokens, dim)`, as one `(tokens, dim)`, or padded `(rows, tokens, dim)` with a mask.
Without a mask, rows of zeros in a padded tensor are padding; in a list they are tokens.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.ops import maxsim as operator
from omnitune.types import Embeddings

__all__ = [
    "TokenVectors",
    "XTRKDScores",
    "XTRScores",
    "colbert_kd_scores",
    "colbert_scores",
    "colbert_scores_pairwise",
    "maxsim",
    "maxsim_pairwise",
    "mean_colbert_kd_scores",
    "mean_colbert_scores",
    "mean_colbert_scores_pairwise",
    "mean_maxsim",
    "mean_maxsim_pairwise",
    "xtr_kd_scores",
    "xtr_scores",
    "xtr_scores_pairwise",
]

TokenVectors: TypeAlias = Tensor | NDArray[Any] | Sequence[Any] | Embeddings
Score = TypeVar("Score", bound=Callable[..., Tensor])


def packed(vectors: TokenVectors, mask: Tensor | None = None, device: Any = None) -> Embeddings:
    """Token vectors in any accepted form as packed rows of floats.

    Args:
        vectors: A list of `(tokens, dim)`, one `(tokens, dim)`, `(rows, tokens, dim)`, or `Embeddings`.
        mask: True for real tokens of padded vectors `(rows, tokens)`.
        device: Where to; None leaves them.

    Raises:
        ShapeError: They have another shape.
    """
    if isinstance(vectors, Embeddings):
        found = vectors.pack()
    elif isinstance(vectors, Tensor | np.ndarray):
        values = _floats(vectors)
        values = values[None] if values.dim() == 2 else values
        if values.dim() != 3:
            raise ShapeError(
                f"embeddings: expected (rows, tokens, dim), or a list of (tokens, dim), got {tuple(values.shape)}"
            )
        real = values.ne(0).any(dim=-1) if mask is None else mask.to(values.device).bool()
        if real.dim() == 1:
            real = real[None]
        found = Embeddings(values, real).pack()
    else:
        rows = [_floats(row) for row in vectors]
        if not rows:
            return Embeddings(torch.zeros(0, 0), offsets=torch.zeros(1, dtype=torch.int64))
        if any(row.dim() != 2 for row in rows):
            raise ShapeError(f"embeddings: expected a list of (tokens, dim), got {[tuple(r.shape) for r in rows][:3]}")
        if mask is not None:
            rows = [row[real.to(row.device).bool()[: len(row)]] for row, real in zip(rows, mask, strict=True)]
        found = Embeddings.packed(rows)
    return found if device is None else found.to(torch.device(device))


def _averaged(score: Score, *example: str) -> Score:
    """The same function, named `mean_...`, that divides by the query's number of tokens unless told otherwise."""
    signature = inspect.signature(score)
    normalize = signature.parameters["length_normalize"].replace(default=True)
    averaged = signature.replace(
        parameters=[normalize if one.name == normalize.name else one for one in signature.parameters.values()]
    )

    @functools.wraps(score)
    def mean(*args: Any, **kwargs: Any) -> Any:
        given = averaged.bind(*args, **kwargs)
        given.apply_defaults()
        return score(*given.args, **given.kwargs)

    mean.__name__ = mean.__qualname__ = f"mean_{score.__name__}"
    shown = "".join(f"\n    {line}" for line in example)
    mean.__doc__ = f"`{score.__name__}` divided by the query's number of tokens.\n\nExample:{shown}"
    mean.__signature__ = averaged  # type: ignore[attr-defined]
    return cast(Score, mean)


def _floats(vectors: Any) -> Tensor:
    tensor = torch.as_tensor(vectors)
    return tensor if tensor.is_floating_point() else tensor.float()


def maxsim(
    a: TokenVectors,
    b: TokenVectors,
    a_mask: Tensor | None = None,
    b_mask: Tensor | None = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: str | torch.device | None = None,
) -> Tensor:
    """MaxSim of every query with every document.

    Args:
        a: Token vectors of queries.
        b: Token vectors of documents.
        a_mask: True for real tokens `(queries, tokens)`.
        b_mask: Likewise of documents.
        chunk_elements: Accepted for compatibility: blocks have a constant size.
        length_normalize: Divide by the query's number of tokens.
        device: Where to compute; None takes that of the documents.

    Returns:
        `(queries, documents)`, float32 at least; -1e9 for a document without tokens.

    Source:
        Khattab and Zaharia 2020 (arXiv:2004.12832).

    Example:
        >>> maxsim([torch.eye(2)], [torch.eye(2), 0.5 * torch.eye(2)])
        tensor([[2., 1.]])
    """
    del chunk_elements
    queries, documents = _both(a, b, a_mask, b_mask, device)
    if not len(queries) or not len(documents):
        return torch.zeros(len(queries), len(documents))
    return operator.maxsim(queries, documents, mean=length_normalize)


def maxsim_pairwise(
    a: TokenVectors,
    b: TokenVectors,
    a_mask: Tensor | None = None,
    b_mask: Tensor | None = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: str | torch.device | None = None,
) -> Tensor:
    """MaxSim of the first query with the first document, the second with the second, ...: `(rows,)`; see `maxsim`.

    Raises:
        ShapeError: There are not as many documents as queries.

    Example:
        >>> maxsim_pairwise([torch.eye(2), torch.eye(2)], [torch.eye(2), 0.5 * torch.eye(2)])
        tensor([2., 1.])
    """
    del chunk_elements
    queries, documents = _both(a, b, a_mask, b_mask, device)
    if len(queries) != len(documents):
        raise ShapeError(f"b: expected {len(queries)} documents, one a query, got {len(documents)}")
    if not len(queries):
        return torch.zeros(0)
    rows = torch.arange(len(queries))
    return operator.maxsim(queries, documents, (rows, rows), mean=length_normalize)


def _both(
    a: TokenVectors, b: TokenVectors, a_mask: Tensor | None, b_mask: Tensor | None, device: str | torch.device | None
) -> tuple[Embeddings, Embeddings]:
    documents = packed(b, b_mask, device)
    queries = packed(a, a_mask, documents.values.device)
    kind = torch.promote_types(queries.values.dtype, documents.values.dtype)
    return queries.to(kind), documents.to(kind)


mean_maxsim = _averaged(
    maxsim, ">>> mean_maxsim([torch.eye(2)], [torch.eye(2), 0.5 * torch.eye(2)])", "tensor([[1.0000, 0.5000]])"
)
mean_maxsim_pairwise = _averaged(
    maxsim_pairwise,
    ">>> mean_maxsim_pairwise([torch.eye(2), torch.eye(2)], [torch.eye(2), 0.5 * torch.eye(2)])",
    "tensor([1.0000, 0.5000])",
)


# -- queries with groups of documents


def _groups(documents: Any, mask: Tensor | None) -> tuple[Embeddings, int]:
    """Documents `(queries, n, tokens, dim)` one after another, and n.

    Raises:
        ShapeError: They have another shape.
    """
    values = _floats(documents)
    if values.dim() != 4:
        raise ShapeError(f"documents_embeddings: expected (queries, n, tokens, dim), got {tuple(values.shape)}")
    flat = None if mask is None else mask.flatten(0, 1)
    return packed(values.flatten(0, 1), flat), values.shape[1]


def colbert_scores(
    queries_embeddings: TokenVectors,
    documents_embeddings: Any,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """MaxSim of every query with all groups' documents.

    Args:
        queries_embeddings: `(queries, tokens, dim)`.
        documents_embeddings: `(queries, n, tokens, dim)`.
        queries_mask: `(queries, tokens)`.
        documents_mask: `(queries, n, tokens)`.
        chunk_elements: Accepted for compatibility.
        length_normalize: Divide by the query's number of tokens.

    Returns:
        `(queries, queries * n)`: document k of query j is column `j * n + k`.

    Example:
        >>> queries = torch.eye(2).repeat(2, 1, 1)  # two, of two tokens
        >>> documents = torch.stack([torch.eye(2), 0.5 * torch.eye(2)]).repeat(2, 1, 1, 1)  # two a query
        >>> colbert_scores(queries, documents)
        tensor([[2., 1., 2., 1.],
                [2., 1., 2., 1.]])
    """
    documents, _ = _groups(documents_embeddings, documents_mask)
    return maxsim(queries_embeddings, documents, queries_mask, None, chunk_elements, length_normalize)


def colbert_kd_scores(
    queries_embeddings: TokenVectors,
    documents_embeddings: Any,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """MaxSim of every query with the documents of its own group: `(queries, n)`; see `colbert_scores`.

    Example:
        >>> queries = torch.eye(2).repeat(2, 1, 1)  # two, of two tokens
        >>> documents = torch.stack([torch.eye(2), 0.5 * torch.eye(2)]).repeat(2, 1, 1, 1)  # two a query
        >>> colbert_kd_scores(queries, documents)
        tensor([[2., 1.],
                [2., 1.]])
    """
    del chunk_elements
    documents, n = _groups(documents_embeddings, documents_mask)
    queries, documents = _both(queries_embeddings, documents, queries_mask, None, None)
    rows = torch.arange(len(documents))
    return operator.maxsim(queries, documents, (rows // n, rows), mean=length_normalize).view(-1, n)


def colbert_scores_pairwise(
    queries_embeddings: TokenVectors,
    documents_embeddings: TokenVectors,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
) -> Tensor:
    """MaxSim of query i with document i: `(rows,)`.

    Example:
        >>> colbert_scores_pairwise([torch.eye(2), torch.eye(2)], [torch.eye(2), 0.5 * torch.eye(2)])
        tensor([2., 1.])
    """
    masks = queries_mask, documents_mask
    return maxsim_pairwise(queries_embeddings, documents_embeddings, *masks, chunk_elements, length_normalize)


_TWO_EACH = (
    ">>> queries = torch.eye(2).repeat(2, 1, 1)  # two, of two tokens",
    ">>> documents = torch.stack([torch.eye(2), 0.5 * torch.eye(2)]).repeat(2, 1, 1, 1)  # two a query",
)
mean_colbert_scores = _averaged(
    colbert_scores,
    *_TWO_EACH,
    ">>> mean_colbert_scores(queries, documents)[0]",
    "tensor([1.0000, 0.5000, 1.0000, 0.5000])",
)
mean_colbert_kd_scores = _averaged(
    colbert_kd_scores, *_TWO_EACH, ">>> mean_colbert_kd_scores(queries, documents)[0]", "tensor([1.0000, 0.5000])"
)
mean_colbert_scores_pairwise = _averaged(
    colbert_scores_pairwise,
    ">>> mean_colbert_scores_pairwise([torch.eye(2), torch.eye(2)], [torch.eye(2), 0.5 * torch.eye(2)])",
    "tensor([1.0000, 0.5000])",
)


def xtr_scores(
    queries_embeddings: TokenVectors,
    documents_embeddings: Any,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    top_k: int = 256,
    chunk_elements: int | None = None,
) -> Tensor:
    """XTR scores of every query with all groups' documents `(queries, queries * n)`.

    Args:
        queries_embeddings: `(queries, tokens, dim)`.
        documents_embeddings: `(queries, n, tokens, dim)`.
        queries_mask: `(queries, tokens)`.
        documents_mask: `(queries, n, tokens)`.
        top_k: Document tokens that every query token retrieves; only these count.
        chunk_elements: Accepted for compatibility.

    Source:
        Lee et al. 2023, XTR, eq. 4 (arXiv:2304.01982).

    Example:
        >>> queries = torch.eye(2).repeat(2, 1, 1)  # two, of two tokens
        >>> documents = torch.stack([torch.eye(2), 0.5 * torch.eye(2)]).repeat(2, 1, 1, 1)  # two a query
        >>> xtr_scores(queries, documents, top_k=2)
        tensor([[1., 0., 1., 0.],
                [1., 0., 1., 0.]])
    """
    del chunk_elements
    documents, _ = _groups(documents_embeddings, documents_mask)
    return operator.xtr(*_both(queries_embeddings, documents, queries_mask, None, None), top_k=top_k)


def xtr_kd_scores(
    queries_embeddings: TokenVectors,
    documents_embeddings: Any,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    top_k: int = 256,
    chunk_elements: int | None = None,
) -> Tensor:
    """XTR scores of every query with the documents of its own group, all being searched: `(queries, n)`.

    Example:
        >>> queries = torch.eye(2).repeat(2, 1, 1)  # two, of two tokens
        >>> documents = torch.stack([torch.eye(2), 0.5 * torch.eye(2)]).repeat(2, 1, 1, 1)  # two a query
        >>> xtr_kd_scores(queries, documents, top_k=2)
        tensor([[1., 0.],
                [1., 0.]])
    """
    del chunk_elements
    documents, n = _groups(documents_embeddings, documents_mask)
    rows = torch.arange(len(documents))
    both = _both(queries_embeddings, documents, queries_mask, None, None)
    return operator.xtr(*both, (rows // n, rows), top_k=top_k).view(-1, n)


def xtr_scores_pairwise(
    queries_embeddings: TokenVectors,
    documents_embeddings: TokenVectors,
    queries_mask: Tensor | None = None,
    documents_mask: Tensor | None = None,
    top_k: int = 256,
    chunk_elements: int | None = None,
) -> Tensor:
    """XTR score of query i with document i, all documents being searched: `(rows,)`.

    Example:
        >>> xtr_scores_pairwise([torch.eye(2), torch.eye(2)], [torch.eye(2), 0.5 * torch.eye(2)], top_k=2)
        tensor([1.0000, 0.5000])
    """
    del chunk_elements
    queries, documents = _both(queries_embeddings, documents_embeddings, queries_mask, documents_mask, None)
    rows = torch.arange(len(queries))
    return operator.xtr(queries, documents, (rows, rows), top_k=top_k)


class XTRScores:
    """`xtr_scores` with a number of retrieved tokens of its own, for a loss's `similarity_fct`.

    Args:
        top_k: Document tokens that every query token retrieves.
        chunk_elements: Accepted for compatibility.

    Raises:
        InputError: `top_k` is not positive.

    Example:
        >>> from omnitune.multi_vector_encoder.losses import MultiVectorMultipleNegativesRankingLoss
        >>> rows = Dataset.from_dict({"query": ["how often to grease", "how hot"], "page": pages})
        >>> loss = MultiVectorMultipleNegativesRankingLoss(late, similarity_fct=XTRScores(top_k=32))
        >>> trainer = MultiVectorEncoderTrainer(model=late, train_dataset=rows, loss=loss)
    """

    def __init__(self, top_k: int = 256, *, chunk_elements: int | None = None) -> None:
        if top_k < 1:
            raise InputError(f"top_k: expected a positive number of tokens, got {top_k}")
        self.top_k = top_k
        self.chunk_elements = chunk_elements

    def get_config_dict(self) -> dict[str, int | None]:
        """The constructor's arguments, for the model card."""
        return {"top_k": self.top_k, "chunk_elements": self.chunk_elements}

    def __call__(
        self,
        queries_embeddings: TokenVectors,
        documents_embeddings: Any,
        queries_mask: Tensor | None = None,
        documents_mask: Tensor | None = None,
    ) -> Tensor:
        """`(queries, queries * n)`."""
        return xtr_scores(queries_embeddings, documents_embeddings, queries_mask, documents_mask, self.top_k)


class XTRKDScores(XTRScores):
    """`xtr_kd_scores` with a number of retrieved tokens of its own.

    Example:
        >>> from omnitune.multi_vector_encoder.losses import MultiVectorDistillKLDivLoss
        >>> columns = {"query": ["how hot"], "page": [pages[1]], "other": [pages[0]], "label": [[0.9, 0.1]]}
        >>> loss = MultiVectorDistillKLDivLoss(late, similarity_fct=XTRKDScores(top_k=32))
        >>> trainer = MultiVectorEncoderTrainer(model=late, train_dataset=Dataset.from_dict(columns), loss=loss)
    """

    def __call__(
        self,
        queries_embeddings: TokenVectors,
        documents_embeddings: Any,
        queries_mask: Tensor | None = None,
        documents_mask: Tensor | None = None,
    ) -> Tensor:
        """`(queries, n)`."""
        return xtr_kd_scores(queries_embeddings, documents_embeddings, queries_mask, documents_mask, self.top_k)
