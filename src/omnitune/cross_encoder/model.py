"""The encoder, under Sentence Transformers' path."""

from omnitune.model.pair import CrossEncoder

__all__ = ["CrossEncoder"]
