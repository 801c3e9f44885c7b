"""`omnitune.losses.multi_vector` under Sentence Transformers' path."""

from omnitune.losses.multi_vector import *  # noqa: F403  # the room's __all__ is the list
from omnitune.losses.multi_vector import __all__ as __all__
