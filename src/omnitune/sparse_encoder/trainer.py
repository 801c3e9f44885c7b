"""The trainer, under Sentence Transformers' path."""

from omnitune.training.sparse import SparseEncoderTrainer

__all__ = ["SparseEncoderTrainer"]
