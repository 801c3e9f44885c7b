"""The late-interaction family under Sentence Transformers' path; nothing inside omnitune imports it."""

from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.module_paths import below
from omnitune.ops.token_similarity import maxsim, maxsim_pairwise
from omnitune.report.card import MultiVectorEncoderModelCardData
from omnitune.training.arguments import MultiVectorEncoderTrainingArguments
from omnitune.training.trainer import MultiVectorEncoderTrainer

__all__ = [
    "MultiVectorEncoder",
    "MultiVectorEncoderModelCardData",
    "MultiVectorEncoderTrainer",
    "MultiVectorEncoderTrainingArguments",
    "maxsim",
    "maxsim_pairwise",
]

__getattr__ = below(__name__)
