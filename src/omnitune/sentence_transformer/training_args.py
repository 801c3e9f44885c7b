"""Training arguments and samplers, under Sentence Transformers' path."""

from omnitune.data.samplers import BatchSamplers, MultiDatasetBatchSamplers
from omnitune.training.arguments import SentenceTransformerTrainingArguments

__all__ = ["BatchSamplers", "MultiDatasetBatchSamplers", "SentenceTransformerTrainingArguments"]
