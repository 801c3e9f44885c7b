"""The encoder, under Sentence Transformers' path."""

from omnitune.model.sparse import SparseEncoder

__all__ = ["SparseEncoder"]
