"""`omnitune.datasets` under Sentence Transformers' path."""

from omnitune.datasets import *  # noqa: F403  # the facade's __all__ is the list
from omnitune.datasets import __all__ as __all__

__path__: list[str] = []  # older paths lie below: see module_paths
