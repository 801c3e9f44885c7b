"""The encoder, under Sentence Transformers' path."""

from omnitune.model.dense import SentenceTransformer

__all__ = ["SentenceTransformer"]
