"""Sentence Transformers' older path of the similarity functions' names."""

from omnitune.ops.similarity import SimilarityFunction

__all__ = ["SimilarityFunction"]
