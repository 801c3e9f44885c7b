"""`omnitune.readers` under Sentence Transformers' path."""

from omnitune.readers import *  # noqa: F403  # the facade's __all__ is the list
from omnitune.readers import __all__ as __all__

__path__: list[str] = []  # older paths lie below: see module_paths
