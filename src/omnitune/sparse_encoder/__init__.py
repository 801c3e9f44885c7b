"""The sparse family under Sentence Transformers' path; nothing inside omnitune imports it."""

from omnitune.data.collator import Collator as SparseEncoderDataCollator
from omnitune.model.sparse import SparseEncoder
from omnitune.module_paths import below
from omnitune.report.card import SparseEncoderModelCardData
from omnitune.training.arguments import SparseEncoderTrainingArguments
from omnitune.training.trainer import SparseEncoderTrainer

__all__ = [
    "SparseEncoder",
    "SparseEncoderDataCollator",
    "SparseEncoderModelCardData",
    "SparseEncoderTrainer",
    "SparseEncoderTrainingArguments",
]

__getattr__ = below(__name__)
