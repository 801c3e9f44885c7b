"""The trainer, under Sentence Transformers' path."""

from omnitune.training.trainer import CrossEncoderTrainer

__all__ = ["CrossEncoderTrainer"]
