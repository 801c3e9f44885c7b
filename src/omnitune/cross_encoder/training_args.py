"""Training arguments, under Sentence Transformers' path."""

from omnitune.training.arguments import CrossEncoderTrainingArguments

__all__ = ["CrossEncoderTrainingArguments"]
