"""Sentence Transformers' path of the training arguments."""

from omnitune.data.multi_samplers import MultiDatasetBatchSamplers
from omnitune.data.samplers import BatchSamplers
from omnitune.training.arguments import SentenceTransformerTrainingArguments

__all__ = ["BatchSamplers", "MultiDatasetBatchSamplers", "SentenceTransformerTrainingArguments"]
