"""Sentence Transformers' path for what all families share; nothing inside omnitune imports it."""

from omnitune.base.sampler import (
    BatchSamplers,
    DefaultBatchSampler,
    GroupByLabelBatchSampler,
    MultiDatasetBatchSamplers,
    MultiDatasetDefaultBatchSampler,
    NoDuplicatesBatchSampler,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
)
from omnitune.data.collator import Collator as BaseDataCollator
from omnitune.model.adapters import AdapterMixin as PeftAdapterMixin
from omnitune.model.base import Model as BaseModel
from omnitune.module_paths import below
from omnitune.training.arguments import BaseTrainingArguments
from omnitune.training.base import BaseTrainer

__all__ = [
    "BaseDataCollator",
    "BaseModel",
    "BaseTrainer",
    "BaseTrainingArguments",
    "BatchSamplers",
    "DefaultBatchSampler",
    "GroupByLabelBatchSampler",
    "MultiDatasetBatchSamplers",
    "MultiDatasetDefaultBatchSampler",
    "NoDuplicatesBatchSampler",
    "PeftAdapterMixin",
    "ProportionalBatchSampler",
    "RoundRobinBatchSampler",
]

__getattr__ = below(__name__)
