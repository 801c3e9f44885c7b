"""From a folder of documents to a finetuned retriever and a report of how much better it is.

Everything at once, or step by step; each step is the command of the same name:

    from omnitune.finetune import evaluate, finetune, prepare, train

    outcome = finetune("manuals", "run")               # everything; outcome.report.headline

    dataset = prepare("manuals", "run/dataset")        # pages, splits, queries
    model = train(dataset, "run")                      # a directory, for SentenceTransformer(model)
    results = evaluate(model, dataset, "numbers.json") # on documents that training never saw

Names are imported when they are used, because they load torch and transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnitune.finetune.dataset import prepare
    from omnitune.finetune.fit import train
    from omnitune.finetune.measure import evaluate
    from omnitune.finetune.run import Outcome, finetune

__all__ = ["Outcome", "evaluate", "finetune", "prepare", "train"]

_HOMES = {"Outcome": "run", "evaluate": "measure", "finetune": "run", "prepare": "dataset", "train": "fit"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"omnitune.finetune.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
