"""The encoder, under Sentence Transformers' path."""

from omnitune.model.encoders import SentenceTransformer

__all__ = ["SentenceTransformer"]
