"""`omnitune.losses.sparse` under Sentence Transformers' path."""

from omnitune.losses.sparse import *  # noqa: F403  # the room's __all__ is the list
from omnitune.losses.sparse import __all__ as __all__

__path__: list[str] = []  # older paths lie below: see module_paths
