"""Fewer token vectors a document: similar ones are put together.

Clusters are found on the host, one document a thread, because linkage releases the interpreter while it works; their
means are taken where the vectors are, with gradients.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from omnitune import runtime
from omnitune.errors import InputError, ShapeError
from omnitune.modules.base import Module
from omnitune.modules.multi_vector_mask import DOCUMENT, tasks_of
from omnitune.types import Embeddings, Features


class BaseTokenPooling(Module):
    """Pools the token vectors of every document by itself; subclasses say how, in `pool_one`.

    Args:
        tasks: Tasks whose vectors are pooled, "document" by default; without a task an input is a document.

    Example:
        >>> class FirstTokens(BaseTokenPooling):
        ...     def pool_one(self, embedding, **kwargs):
        ...         return embedding[:3]
        >>> [len(vectors) for vectors in late.encode_document(pages, token_pooling=FirstTokens())]
        [3, 3]
    """

    config_keys: ClassVar[list[str]] = ["tasks"]
    forward_kwargs: set[str] = {"task"}

    def __init__(self, *, tasks: str | list[str] | None = None) -> None:
        super().__init__()
        self.tasks = tasks_of(tasks)

    def applies_to(self, task: str | None) -> bool:
        """Tell whether vectors of `task` are pooled."""
        return (task or DOCUMENT) in self.tasks

    def pool_one(self, embedding: Tensor, **kwargs: Any) -> Tensor:
        """Pooled vectors `(fewer tokens, dim)` of one document's `(tokens, dim)`."""
        raise NotImplementedError

    def pool(
        self,
        embeddings: Sequence[Tensor] | Tensor,
        task: str | None = None,
        attention_mask: Tensor | None = None,
        padding_side: Literal["left", "right"] = "right",
        **kwargs: Any,
    ) -> list[Tensor] | Tensor:
        """Pooled vectors of several documents, on as many threads as there are cores.

        Args:
            embeddings: `(tokens, dim)` each; or padded `(rows, tokens, dim)`.
            task: What they are; others than `tasks` come back as they are.
            attention_mask: True for real tokens of padded ones `(rows, tokens)`; None takes rows of zeros as padding.
            padding_side: Where padded results get their padding.
            **kwargs: Passed on to `pool_one`.

        Returns:
            In the form of `embeddings`.

        Raises:
            ShapeError: They are neither.
        """
        if not self.applies_to(task):
            return embeddings if isinstance(embeddings, Tensor) else list(embeddings)
        if not isinstance(embeddings, Tensor):
            return self._each(embeddings, kwargs)
        if embeddings.dim() != 3:
            raise ShapeError(f"embeddings: expected (rows, tokens, dim) or a list, got {tuple(embeddings.shape)}")
        mask = embeddings.any(dim=-1) if attention_mask is None else attention_mask.bool()
        pooled = Embeddings.packed(self._each(Embeddings(embeddings, mask).unbind(), kwargs)).pad()
        if padding_side == "right":
            return pooled.values
        assert pooled.mask is not None
        order = pooled.mask.int().argsort(dim=1, stable=True)
        return pooled.values.gather(1, order[..., None].expand_as(pooled.values))

    def _each(self, rows: Sequence[Tensor], kwargs: dict[str, Any]) -> list[Tensor]:
        workers = min(len(rows), os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count() or 1)
        if workers < 2 or torch.is_grad_enabled():  # graphs are built by the thread that will walk them
            return [self.pool_one(row, **kwargs) for row in rows]
        inference = torch.is_inference_mode_enabled()

        def one(row: Tensor) -> Tensor:
            with torch.inference_mode(inference), torch.no_grad():  # modes are a thread's own
                return self.pool_one(row, **kwargs)

        with ThreadPoolExecutor(workers, thread_name_prefix="omnitune-pool") as pool:
            return list(pool.map(one, rows))

    def forward(self, features: Features, task: str | None = None) -> Features:  # type: ignore[override]
        """Features with fewer `token_embeddings` `(rows, tokens, dim)`, right-padded, and their `attention_mask`."""
        task = features.get("task") if task is None else task
        if not self.applies_to(task):
            return features
        given = Embeddings(features["token_embeddings"], features["attention_mask"].bool())
        pooled = Embeddings.packed(self._each(given.unbind(), {})).pad()
        return {**features, "token_embeddings": pooled.values, "attention_mask": pooled.mask}


class HierarchicalTokenPooling(BaseTokenPooling):
    """Means of Ward clusters of a document's token vectors, by cosine distance.

    Args:
        pool_factor: Tokens that become one, on average, at least 1; 1 keeps all.
        num_protected_tokens: First tokens that stay as they are, such as `[CLS]`.
        normalize_embeddings: Scale what comes out to unit length.
        tasks: See `BaseTokenPooling`.

    Raises:
        InputError: `pool_factor` is below 1, or `num_protected_tokens` below 0.

    Source:
        Clavié et al. 2024, "Reducing the footprint of multi-vector retrieval" (arXiv:2409.14683).

    Example:
        >>> half = HierarchicalTokenPooling(pool_factor=2)
        >>> [len(vectors) for vectors in late.encode_document(pages)]
        [8, 9]
        >>> [len(vectors) for vectors in late.encode_document(pages, token_pooling=half)]
        [4, 5]
    """

    config_keys: ClassVar[list[str]] = ["pool_factor", "num_protected_tokens", "normalize_embeddings", "tasks"]

    def __init__(
        self,
        pool_factor: float = 1.0,
        *,
        num_protected_tokens: int = 1,
        normalize_embeddings: bool = True,
        tasks: str | list[str] | None = None,
    ) -> None:
        super().__init__(tasks=tasks)
        if not pool_factor >= 1:
            raise InputError(f"pool_factor: expected at least 1, got {pool_factor}")
        if num_protected_tokens < 0:
            raise InputError(f"num_protected_tokens: expected at least 0, got {num_protected_tokens}")
        self.pool_factor = pool_factor
        self.num_protected_tokens = num_protected_tokens
        self.normalize_embeddings = normalize_embeddings

    @classmethod
    def read_config(cls, folder: Path) -> dict[str, Any]:
        """The configuration in `folder`; one that says nothing of normalisation is older than it and has none."""
        config = super().read_config(folder)
        return {"normalize_embeddings": False, **config} if config else config

    def pool_one(self, embedding: Tensor, **kwargs: Any) -> Tensor:
        """Protected vectors, then cluster means, `(tokens, dim)`."""
        factor = float(kwargs.get("pool_factor", self.pool_factor))
        protected, rest = embedding[: self.num_protected_tokens], embedding[self.num_protected_tokens :]
        clusters = max(int(len(rest) // factor), 1)
        if len(rest) > clusters:
            labels = ward_clusters(rest.detach().float().cpu(), clusters).to(rest.device)
            counts = torch.bincount(labels)
            sums = rest.new_zeros(len(counts), rest.shape[1]).index_add(0, labels, rest)
            rest = sums / counts[:, None].to(sums.dtype)
        pooled = torch.cat([protected, rest])
        return F.normalize(pooled.float(), dim=-1).to(pooled.dtype) if self.normalize_embeddings else pooled


def ward_clusters(vectors: Tensor, clusters: int) -> Tensor:
    """Number of each vector's cluster `(n,)`, int64, from 0.

    Args:
        vectors: `(n, dim)`, n at least 2.
        clusters: How many there may be at most.
    """
    runtime.require("scipy", extra="late")
    from scipy.cluster.hierarchy import fcluster, linkage

    unit = F.normalize(vectors, dim=-1)
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    distances = (1 - unit @ unit.T)[rows, columns].clamp(0, 2)
    labels = fcluster(linkage(distances.numpy().astype(np.float64), method="ward"), t=clusters, criterion="maxclust")
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1].astype(np.int64))


class LambdaTokenPooling(BaseTokenPooling):
    """Pools with a function of the caller's; it cannot be saved.

    Args:
        pool_fn: From `(tokens, dim)` to `(fewer tokens, dim)`.
        tasks: See `BaseTokenPooling`.

    Example:
        >>> every_second = LambdaTokenPooling(lambda vectors: vectors[::2])
        >>> [len(vectors) for vectors in late.encode_document(pages, token_pooling=every_second)]
        [4, 5]
    """

    def __init__(self, pool_fn: Callable[[Tensor], Tensor], *, tasks: str | list[str] | None = None) -> None:
        super().__init__(tasks=tasks)
        self.pool_fn = pool_fn

    def pool_one(self, embedding: Tensor, **kwargs: Any) -> Tensor:  # noqa: ARG002 - others take a factor
        """Apply the function to `(tokens, dim)`."""
        return self.pool_fn(embedding)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:  # noqa: ARG002
        """Refuse: a function is no data.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "LambdaTokenPooling: expected a module that can be saved, got one that holds a function; give it to "
            "encode(token_pooling=...), or write a subclass of BaseTokenPooling"
        )
