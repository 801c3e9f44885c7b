"""Training arguments, under Sentence Transformers' path."""

from omnitune.training.arguments import SparseEncoderTrainingArguments

__all__ = ["SparseEncoderTrainingArguments"]
