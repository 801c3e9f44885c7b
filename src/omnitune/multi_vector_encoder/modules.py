"""Modules of the late-interaction family, under Sentence Transformers' path."""

from omnitune.modules import BaseTokenPooling, HierarchicalTokenPooling, LambdaTokenPooling, MultiVectorMask

__all__ = ["BaseTokenPooling", "HierarchicalTokenPooling", "LambdaTokenPooling", "MultiVectorMask"]
__path__: list[str] = []  # older paths lie below: see module_paths
