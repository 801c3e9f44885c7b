"""Evaluators of every family, under Sentence Transformers' path."""

from omnitune.evaluation import BaseEvaluator, SentenceEvaluator, SequentialEvaluator

__all__ = ["BaseEvaluator", "SentenceEvaluator", "SequentialEvaluator"]
__path__: list[str] = []  # older paths lie below: see module_paths
