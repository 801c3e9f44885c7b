"""Evaluators of every family, under Sentence Transformers' path."""

from omnitune.evaluation import BaseEvaluator, SequentialEvaluator

__all__ = ["BaseEvaluator", "SequentialEvaluator"]
