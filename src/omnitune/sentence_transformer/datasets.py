"""`omnitune.datasets` under Sentence Transformers' path."""

from omnitune.datasets import *  # noqa: F403  # the facade's __all__ is the list
from omnitune.datasets import __all__ as __all__
