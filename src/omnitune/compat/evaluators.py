"""Evaluators of cross encoders under their names before version 4."""

import warnings
from collections.abc import Sequence
from typing import Any, Self

from omnitune.evaluation.cross_encoder import (
    CrossEncoderClassificationEvaluator,
    CrossEncoderCorrelationEvaluator,
    CrossEncoderRerankingEvaluator,
)


class _Renamed:
    """Warns where it is made, and makes itself of examples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        today = type(self).__mro__[2].__name__
        warnings.warn(f"{type(self).__name__} is deprecated; use {today}", DeprecationWarning, stacklevel=2)
        super().__init__(*args, **kwargs)

    @classmethod
    def from_input_examples(cls, examples: Sequence[Any], **kwargs: Any) -> Self:
        """From examples of two texts and a label."""
        return cls([example.texts for example in examples], [example.label for example in examples], **kwargs)


class CEBinaryAccuracyEvaluator(_Renamed, CrossEncoderClassificationEvaluator):
    """`CrossEncoderClassificationEvaluator`."""


class CEBinaryClassificationEvaluator(_Renamed, CrossEncoderClassificationEvaluator):
    """`CrossEncoderClassificationEvaluator`."""


class CEF1Evaluator(_Renamed, CrossEncoderClassificationEvaluator):
    """`CrossEncoderClassificationEvaluator`."""


class CESoftmaxAccuracyEvaluator(_Renamed, CrossEncoderClassificationEvaluator):
    """`CrossEncoderClassificationEvaluator`."""


class CECorrelationEvaluator(_Renamed, CrossEncoderCorrelationEvaluator):
    """`CrossEncoderCorrelationEvaluator`."""


class CERerankingEvaluator(_Renamed, CrossEncoderRerankingEvaluator):
    """`CrossEncoderRerankingEvaluator`."""
