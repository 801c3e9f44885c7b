"""The late-interaction family under Sentence Transformers' path; nothing inside omnitune imports it."""

from omnitune.model.multi_vector import MultiVectorEncoder
from omnitune.ops.token_similarity import maxsim, maxsim_pairwise
from omnitune.report.card import MultiVectorEncoderModelCardData

__all__ = ["MultiVectorEncoder", "MultiVectorEncoderModelCardData", "maxsim", "maxsim_pairwise"]
