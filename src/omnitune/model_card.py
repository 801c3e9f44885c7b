"""What model cards say, under Sentence Transformers' older path."""

from omnitune.report.card import SentenceTransformerModelCardData

__all__ = ["SentenceTransformerModelCardData"]
