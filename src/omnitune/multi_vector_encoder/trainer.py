"""The trainer, under Sentence Transformers' path."""

from omnitune.training.trainer import MultiVectorEncoderTrainer

__all__ = ["MultiVectorEncoderTrainer"]
