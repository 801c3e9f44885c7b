"""Modules under the name that scripts written for Sentence Transformers 2 to 5 import them by."""

from typing import Any

from omnitune.modules import (
    Dense,
    Dropout,
    InputModule,
    LayerNorm,
    Module,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
    WordEmbeddings,
    WordWeights,
)
from omnitune.modules import Router as Asym
from omnitune.modules.old_classes import CLIPModel
from omnitune.renames import missing

LEFT_OUT = dict.fromkeys(
    ("BoW", "CNN", "LSTM"),
    "models of it are older than transformers; use WordEmbeddings or StaticEmbedding with Pooling",
)
"""Modules that are left out, and what takes their place."""

__all__ = [
    "Asym",
    "CLIPModel",
    "Dense",
    "Dropout",
    "InputModule",
    "LayerNorm",
    "Module",
    "Normalize",
    "Pooling",
    "Router",
    "StaticEmbedding",
    "Transformer",
    "WeightedLayerPooling",
    "WordEmbeddings",
    "WordWeights",
]
__path__: list[str] = []  # older paths lie below: see module_paths


def __getattr__(name: str) -> Any:
    raise missing(f"module {__name__!r}", name, LEFT_OUT)
