"""Training arguments and samplers, under Sentence Transformers' path."""

from omnitune.data.multi_samplers import MultiDatasetBatchSamplers
from omnitune.data.samplers import BatchSamplers
from omnitune.training.arguments import SentenceTransformerTrainingArguments

__all__ = ["BatchSamplers", "MultiDatasetBatchSamplers", "SentenceTransformerTrainingArguments"]
