"""The dense family under Sentence Transformers' path; nothing inside omnitune imports it."""

from omnitune.model.dense import SentenceTransformer
from omnitune.module_paths import below
from omnitune.report.card import SentenceTransformerModelCardData
from omnitune.training.arguments import SentenceTransformerTrainingArguments
from omnitune.training.trainer import SentenceTransformerTrainer

__all__ = [
    "SentenceTransformer",
    "SentenceTransformerModelCardData",
    "SentenceTransformerTrainer",
    "SentenceTransformerTrainingArguments",
]

__getattr__ = below(__name__)
