"""Modules of the sparse family, under the path of Sentence Transformers 5."""

from omnitune.modules import MLMTransformer, SparseAutoEncoder, SparseStaticEmbedding, SpladePooling

__all__ = ["MLMTransformer", "SparseAutoEncoder", "SparseStaticEmbedding", "SpladePooling"]
__path__: list[str] = []  # older paths lie below: see module_paths
