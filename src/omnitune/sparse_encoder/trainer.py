"""The trainer, under Sentence Transformers' path."""

from omnitune.training.trainer import SparseEncoderTrainer

__all__ = ["SparseEncoderTrainer"]
