"""The cross-encoder family under Sentence Transformers' path; nothing inside omnitune imports it."""

from omnitune.data.collator import Collator as CrossEncoderDataCollator
from omnitune.model.pair import CrossEncoder
from omnitune.module_paths import below
from omnitune.report.card import CrossEncoderModelCardData
from omnitune.training.arguments import CrossEncoderTrainingArguments
from omnitune.training.trainer import CrossEncoderTrainer

__all__ = [
    "CrossEncoder",
    "CrossEncoderDataCollator",
    "CrossEncoderModelCardData",
    "CrossEncoderTrainer",
    "CrossEncoderTrainingArguments",
]

__getattr__ = below(__name__)
