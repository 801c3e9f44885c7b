"""Documents to a dataset, and from there to a measurably better retriever.

`prepare` turns a folder of PDFs and images into a dataset of pages and queries, `load` opens one. Names are imported
when they are used: the processes that render pages import this package, and must not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnitune.documents.dataset import DocumentDataset, check_leaks, load
    from omnitune.documents.preparation import prepare

__all__ = ["DocumentDataset", "check_leaks", "load", "prepare"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = "preparation" if name == "prepare" else "dataset"
        return getattr(importlib.import_module(f"omnitune.documents.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
