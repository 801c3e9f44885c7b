"""Sentence Transformers' path of the training arguments."""

from omnitune.data.samplers import BatchSamplers, MultiDatasetBatchSamplers
from omnitune.training.arguments import SentenceTransformerTrainingArguments

__all__ = ["BatchSamplers", "MultiDatasetBatchSamplers", "SentenceTransformerTrainingArguments"]
