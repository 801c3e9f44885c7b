"""`omnitune.evaluation` under Sentence Transformers' path."""

from omnitune.evaluation import *  # noqa: F403  # the room's __all__ is the list
from omnitune.evaluation import __all__ as __all__

__path__: list[str] = []  # older paths lie below: see module_paths
