"""The trainer, under Sentence Transformers' path."""

from omnitune.training.multi_vector import MultiVectorEncoderTrainer

__all__ = ["MultiVectorEncoderTrainer"]
