"""Similarity maps, under Sentence Transformers' path."""

from typing import Any

from omnitune.model.interpretability import get_n_patches, maxsim_similarity_map, real_query_token_slice
from omnitune.report import similarity_map
from omnitune.report.similarity_map import render_similarity_map_on_image

__all__ = [
    "get_n_patches",
    "maxsim_heatmap",
    "maxsim_similarity_map",
    "real_query_token_slice",
    "render_similarity_map_on_image",
]


def maxsim_heatmap(
    image: Any,
    query_embedding: Any,
    image_embedding: Any,
    n_patches: tuple[int, int],
    image_mask: Any = None,
    aggregate: str = "sum",
    alpha: float = 0.5,
) -> Any:
    """Lay a query's similarity over an image; see `report.similarity_map.maxsim_heatmap`."""
    found = maxsim_similarity_map(query_embedding, image_embedding, n_patches, image_mask)
    return similarity_map.maxsim_heatmap(image, found, aggregate, alpha)
