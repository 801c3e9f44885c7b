"""Data of model cards, under Sentence Transformers' older path."""

from omnitune.report.card import SentenceTransformerModelCardData

__all__ = ["SentenceTransformerModelCardData"]
