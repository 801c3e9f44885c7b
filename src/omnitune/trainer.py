"""Sentence Transformers' older path of the trainer."""

from omnitune.training.trainer import SentenceTransformerTrainer

__all__ = ["SentenceTransformerTrainer"]
