"""`omnitune.losses` under Sentence Transformers' path."""

from omnitune.losses import *  # noqa: F403  # the room's __all__ is the list
from omnitune.losses import __all__ as __all__
