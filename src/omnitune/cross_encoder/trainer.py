"""The trainer, under Sentence Transformers' path."""

from omnitune.training.cross_encoder import CrossEncoderTrainer

__all__ = ["CrossEncoderTrainer"]
