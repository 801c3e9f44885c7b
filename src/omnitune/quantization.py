"""Quantised embeddings and search among them, under Sentence Transformers' older path."""

from omnitune.compat.quantized_search import semantic_search_faiss, semantic_search_usearch
from omnitune.ops.quantize import quantize_embeddings

__all__ = ["quantize_embeddings", "semantic_search_faiss", "semantic_search_usearch"]
