"""Searches in four engines, under Sentence Transformers' path."""

from omnitune.compat.sparse_search import (
    semantic_search_elasticsearch,
    semantic_search_opensearch,
    semantic_search_qdrant,
    semantic_search_seismic,
)

__all__ = [
    "semantic_search_elasticsearch",
    "semantic_search_opensearch",
    "semantic_search_qdrant",
    "semantic_search_seismic",
]
