"""`omnitune.models` under Sentence Transformers' path of today."""

from typing import Any

from omnitune.models import *  # noqa: F403  # its __all__ is the list
from omnitune.models import LEFT_OUT
from omnitune.models import __all__ as __all__
from omnitune.renames import missing

__path__: list[str] = []  # older paths lie below: see module_paths


def __getattr__(name: str) -> Any:
    raise missing(f"module {__name__!r}", name, LEFT_OUT)
