"""Batch samplers, under Sentence Transformers' older path."""

from omnitune.base.sampler import *  # noqa: F403  # that module's __all__ is the list
from omnitune.base.sampler import __all__ as __all__
