"""`omnitune.readers` under Sentence Transformers' path."""

from omnitune.readers import *  # noqa: F403  # the facade's __all__ is the list
from omnitune.readers import __all__ as __all__
