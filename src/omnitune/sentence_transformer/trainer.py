"""The trainer, under Sentence Transformers' path."""

from omnitune.training.trainer import SentenceTransformerTrainer

__all__ = ["SentenceTransformerTrainer"]
