"""Training arguments, under Sentence Transformers' path."""

from omnitune.training.arguments import MultiVectorEncoderTrainingArguments

__all__ = ["MultiVectorEncoderTrainingArguments"]
