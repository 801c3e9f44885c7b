"""The encoder, under Sentence Transformers' path."""

from omnitune.model.cross_encoder import CrossEncoder

__all__ = ["CrossEncoder"]
