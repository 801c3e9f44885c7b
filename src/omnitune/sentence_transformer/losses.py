"""`omnitune.losses` under Sentence Transformers' path."""

from omnitune.losses import *  # noqa: F403  # the room's __all__ is the list
from omnitune.losses import __all__ as __all__
from omnitune.losses import __getattr__ as __getattr__  # type: ignore[attr-defined]  # says what takes a name's place

__path__: list[str] = []  # older paths lie below: see module_paths
