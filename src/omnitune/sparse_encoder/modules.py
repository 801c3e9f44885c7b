"""Modules of the sparse family, under Sentence Transformers' path."""

from omnitune.modules import (
    Dense,
    InputModule,
    MLMTransformer,
    Module,
    Router,
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
    Transformer,
)
from omnitune.modules import Router as Asym

__all__ = [
    "Asym",
    "Dense",
    "InputModule",
    "MLMTransformer",
    "Module",
    "Router",
    "SparseAutoEncoder",
    "SparseStaticEmbedding",
    "SpladePooling",
    "Transformer",
]
__path__: list[str] = []  # older paths lie below: see module_paths
