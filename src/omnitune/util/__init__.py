"""ST's `util` names; each is imported when it is first used."""

import importlib
from typing import Any

from omnitune.renames import missing

_SIMILARITY = (
    "SimilarityFunction cos_sim dot_score euclidean_sim manhattan_sim normalize_embeddings pairwise_angle_sim "
    "pairwise_cos_sim pairwise_dot_score pairwise_euclidean_sim pairwise_manhattan_sim"
)
_UTILITIES = (
    "LoggingHandler batch_to_device disable_datasets_caching disable_logging fullname get_device_name get_rank "
    "get_world_size http_get is_accelerate_available is_datasets_available is_dist_initialized is_training_available"
)
_HOME = {
    **dict.fromkeys(_UTILITIES.split(), "omnitune.compat.utilities"),
    **dict.fromkeys(_SIMILARITY.split(), "omnitune.ops.similarity"),
    **dict.fromkeys(
        ("maxsim", "maxsim_pairwise", "mean_maxsim", "mean_maxsim_pairwise"), "omnitune.ops.token_similarity"
    ),
    **dict.fromkeys(("compute_count_vector", "select_max_active_dims", "to_scipy_coo"), "omnitune.ops.sparse"),
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
        from omnitune.compat.utilities import LEFT_OUT

        raise missing("module 'omnitune.util'", name, LEFT_OUT)
    return getattr(importlib.import_module(_HOME[name]), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return __all__
