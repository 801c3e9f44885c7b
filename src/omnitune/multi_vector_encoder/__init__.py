"""The late-interaction family under Sentence Transformers' path; nothing inside omnitune imports it."""

from typing import Any

from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.module_paths import below
from omnitune.ops.token_similarity import maxsim, maxsim_pairwise
from omnitune.renames import missing
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

LEFT_OUT = {"MultiVectorEncoderDataCollator": "batches are raw columns; give data_collator= to change one"}
"""Names of Sentence Transformers that are not here, and what takes their place."""

_below = below(__name__)


def __getattr__(name: str) -> Any:
    if name in LEFT_OUT:
        raise missing(f"module {__name__!r}", name, LEFT_OUT)
    return _below(name)
