"""Kinds of model, side by side.

A family is a value: the trainer, the collator, the losses and the evaluators read it and never ask for a class. Only
its name is written to a checkpoint.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from omnitune.types import Embeddings, Features

__all__ = ["DENSE", "MULTI_VECTOR", "PAIR", "SPARSE", "Family", "class_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind of model.

    Attributes:
        name: What `model_type` says in a checkpoint, and the name of the public class.
        output: Key of the features that the last module writes.
        arity: Items a row takes: 1, or 2 for (query, document).
        similarity: Default similarity of two outputs; None when the model itself is the scorer.
        similarities: Similarities that its outputs have.
        organization: Owner on the hub of repositories that are named without one.
        mask: Key of the `(rows, tokens)` mask of its output, or None for one vector a row.
    """

    name: str
    output: str
    arity: Literal[1, 2]
    similarity: str | None
    similarities: tuple[str, ...] = ("cosine", "dot", "euclidean", "manhattan")
    organization: str | None = None
    mask: str | None = None

    def read(self, features: Features) -> Embeddings:
        """The family's output among what the last module returned; token vectors without padding."""
        mask: Tensor | None = None if self.mask is None else features[self.mask].bool()
        return Embeddings(features[self.output], mask).pack()


DENSE = Family(
    name="SentenceTransformer",
    output="sentence_embedding",
    arity=1,
    similarity="cosine",
    organization="sentence-transformers",
)
SPARSE = Family(
    name="SparseEncoder", output="sentence_embedding", arity=1, similarity="dot", organization="sparse-encoder"
)
MULTI_VECTOR = Family(
    name="MultiVectorEncoder",
    output="token_embeddings",
    arity=1,
    similarity="maxsim",
    similarities=("maxsim", "meanmaxsim"),
    mask="attention_mask",
)
PAIR = Family(name="CrossEncoder", output="scores", arity=2, similarity=None, similarities=())

_HOMES = {
    DENSE.name: "omnitune.model.dense",
    PAIR.name: "omnitune.model.pair",
    MULTI_VECTOR.name: "omnitune.model.multi_vector",
    SPARSE.name: "omnitune.model.sparse",
}
"""Modules of the families' classes, by name, because every one of them imports this module."""


def class_of(name: str) -> Any:
    """Find the public class of a family by the name that a checkpoint keeps; None where this version has none.

    Example:
        >>> class_of("CrossEncoder")
        <class 'omnitune.model.pair.CrossEncoder'>
    """
    home = _HOMES.get(name)
    if home is None or importlib.util.find_spec(home) is None:
        return None
    return getattr(importlib.import_module(home), name)
