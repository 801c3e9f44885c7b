"""ST's `util` names; each is imported when it is first used."""

import importlib
from typing import Any

_SIMILARITY = (
    "SimilarityFunction cos_sim dot_score euclidean_sim manhattan_sim normalize_embeddings pairwise_angle_sim "
    "pairwise_cos_sim pairwise_dot_score pairwise_euclidean_sim pairwise_manhattan_sim"
)
_HOME = {
    **dict.fromkeys(_SIMILARITY.split(), "omnitune.ops.similarity"),
    "mine_hard_negatives": "omnitune.retrieval.mining",
    "pytorch_cos_sim": "omnitune.ops.similarity",
    "quantize_embeddings": "omnitune.ops.quantize",
    "community_detection": "omnitune.retrieval.semantic",
    "information_retrieval": "omnitune.retrieval.semantic",
    "paraphrase_mining": "omnitune.retrieval.semantic",
    "paraphrase_mining_embeddings": "omnitune.retrieval.semantic",
    "semantic_search": "omnitune.retrieval.semantic",
    "truncate_embeddings": "omnitune.ops.quantize",
}
_RENAMED = {"information_retrieval": "semantic_search", "pytorch_cos_sim": "cos_sim"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'omnitune.util' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return __all__
