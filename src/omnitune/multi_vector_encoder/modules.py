"""Modules of the late-interaction family, under Sentence Transformers' path."""

from omnitune.modules import BaseTokenPooling, HierarchicalTokenPooling, LambdaTokenPooling, MultiVectorMask

__all__ = ["BaseTokenPooling", "HierarchicalTokenPooling", "LambdaTokenPooling", "MultiVectorMask"]
