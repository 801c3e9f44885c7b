"""A learned weight a query token, so that a name counts more than an article."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.modules.base import Module
from omnitune.modules.multi_vector_mask import DOCUMENT, QUERY, tasks_of
from omnitune.types import Features

ONE = math.log(math.e - 1)
"""What `softplus` makes 1 of, so that weights begin alike."""


class TokenWeights(Module):
    """Multiplies the vectors of queries by weights whose mean over a query is 1.

    MaxSim adds products up, so a token counts with its vector's length: scores of `maxsim` are weighted sums, those of
    `meanmaxsim` weighted means, and nothing else changes. It comes after `Normalize`.

    Args:
        dimension: Of the vectors.
        tasks: Tasks whose vectors are weighted, "query" by default; without a task an input is a document.

    Example:
        >>> weighted = MultiVectorEncoder(modules=[*late, TokenWeights(late.get_embedding_dimension())])
        >>> before, after = late.encode_query("grease"), weighted.encode_query("grease")
        >>> np.allclose(before, after, atol=1e-6)  # until it is trained
        True
    """

    config_keys: ClassVar[list[str]] = ["dimension", "tasks"]
    forward_kwargs: set[str] = {"task"}

    def __init__(self, dimension: int, *, tasks: str | list[str] | None = None) -> None:
        super().__init__()
        self.dimension = dimension
        self.tasks = tasks_of(QUERY if tasks is None else tasks)
        self.direction = nn.Parameter(torch.zeros(dimension))
        self.bias = nn.Parameter(torch.zeros(()))

    def weights(self, vectors: Tensor) -> Tensor:
        """Positive weights `(...)` of unit vectors `(..., dimension)`, not yet divided by their mean."""
        return F.softplus(vectors @ self.direction + self.bias + ONE)

    def forward(self, features: Features, task: str | None = None) -> Features:  # type: ignore[override]
        """Features whose `token_embeddings` `(rows, tokens, dimension)` of queries are as long as their weights."""
        task = features.get("task") if task is None else task
        if (task or DOCUMENT) not in self.tasks:
            return features
        vectors, mask = features["token_embeddings"], features["attention_mask"].to(torch.float32)
        weights = self.weights(vectors).to(torch.float32) * mask
        weights = weights / (weights.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1))
        features["token_embeddings"] = vectors * torch.nan_to_num(weights)[..., None].to(vectors.dtype)
        return features

    def get_embedding_dimension(self) -> int:
        """Dimension of the vectors."""
        return self.dimension

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"dimension": self.dimension, "tasks": self.tasks}
