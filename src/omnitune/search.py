"""Finding things with a model: an index on disk, the top pages of a query, and a sheet to look at them."""

from omnitune.retrieval.base import Found
from omnitune.retrieval.index import Index, build_index, is_index, keep_index, open_index
from omnitune.retrieval.semantic import semantic_search

__all__ = ["Found", "Index", "build_index", "is_index", "keep_index", "open_index", "semantic_search"]
