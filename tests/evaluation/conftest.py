"""A model that needs no weights: equal items get equal vectors, drawn from a seed that the item names."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from omnitune.ops.quantize import quantize_embeddings
from omnitune.ops.similarity import SimilarityFunction


class FakeEncoder:
    """Vectors of small integers, so that many scores tie; records what it was asked."""

    def __init__(self, similarity: str = "cosine", dim: int = 8, levels: int = 3) -> None:
        self.similarity_fn_name = similarity
        self.dim = dim
        self.levels = levels
        self.calls: list[tuple[str, int, dict[str, Any]]] = []

    def similarity(self, a: Any, b: Any) -> torch.Tensor:
        return SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(a, b)

    def vector(self, item: Any) -> np.ndarray:
        random = np.random.default_rng(zlib.crc32(str(item).encode()))
        return random.integers(-self.levels, self.levels + 1, self.dim).astype(np.float32)

    def encode(self, inputs: Sequence[Any], verb: str = "encode", **options: Any) -> Any:
        self.calls.append((verb, len(inputs), options))
        vectors = np.stack([self.vector(item) for item in inputs])[:, : options.get("truncate_dim")]
        if options.get("normalize_embeddings"):
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        if options.get("precision"):
            vectors = quantize_embeddings(vectors, options["precision"])
        return torch.from_numpy(vectors) if options.get("convert_to_tensor") else vectors

    def encode_query(self, inputs: Sequence[Any], **options: Any) -> Any:
        return self.encode(inputs, "query", **options)

    def encode_document(self, inputs: Sequence[Any], **options: Any) -> Any:
        return self.encode(inputs, "document", **options)


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def make_encoder() -> Callable[..., FakeEncoder]:
    return FakeEncoder


@pytest.fixture
def retrieval() -> dict[str, Any]:
    """Queries, corpus and relevant documents, with duplicate documents and identifiers out of order."""
    random = np.random.default_rng(0)
    corpus = {f"d{(i * 37) % 101:03d}": f"text {i % 60}" for i in range(101)}
    queries = {f"q{i}": f"text {i * 3} asked" for i in range(23)}
    ids = list(corpus)
    relevant = {query: set(random.choice(ids, random.integers(0, 5), replace=False).tolist()) for query in queries}
    return {"queries": queries, "corpus": corpus, "relevant_docs": relevant}
