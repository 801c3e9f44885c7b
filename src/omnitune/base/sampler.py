"""Batch samplers, under Sentence Transformers' path."""

from omnitune.data.samplers import *  # noqa: F403  # the room's __all__ is the list
from omnitune.data.samplers import __all__ as __all__
