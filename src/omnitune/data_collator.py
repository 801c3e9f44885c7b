"""The collator, under Sentence Transformers' older path and name."""

from omnitune.data.collator import Collator
from omnitune.data.collator import Collator as SentenceTransformerDataCollator

__all__ = ["Collator", "SentenceTransformerDataCollator"]
