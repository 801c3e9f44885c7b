"""The encoder, under Sentence Transformers' path."""

from omnitune.model.multi_vector import MultiVectorEncoder

__all__ = ["MultiVectorEncoder"]
