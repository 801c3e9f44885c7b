"""Use, train and finetune embedding and reranker models over text, images, audio and video.

Every name is imported when first used, so `import omnitune` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from omnitune import module_paths as _module_paths
from omnitune._version import __version__

_HOME = {
    "BatchSamplers": "omnitune.data.samplers",
    "CrossEncoder": "omnitune.model.pair",
    "CrossEncoderModelCardData": "omnitune.report.card",
    "CrossEncoderTrainer": "omnitune.training.trainer",
    "CrossEncoderTrainingArguments": "omnitune.training.arguments",
    "InputExample": "omnitune.compat.examples",
    "LoggingHandler": "omnitune.compat.utilities",
    "ParallelSentencesDataset": "omnitune.compat.old_datasets",
    "SentencesDataset": "omnitune.compat.old_datasets",
    "DEFAULT_POLICY": "omnitune.inputs.policy",
    "DefaultBatchSampler": "omnitune.data.samplers",
    "MediaPolicy": "omnitune.inputs.policy",
    "MultiDatasetBatchSamplers": "omnitune.data.multi_samplers",
    "MultiDatasetDefaultBatchSampler": "omnitune.data.multi_samplers",
    "MultiVectorEncoder": "omnitune.model.multi_vector",
    "MultiVectorEncoderModelCardData": "omnitune.report.card",
    "MultiVectorEncoderTrainer": "omnitune.training.trainer",
    "MultiVectorEncoderTrainingArguments": "omnitune.training.arguments",
    "Retriever": "omnitune.retrieval.retriever",
    "SentenceTransformer": "omnitune.model.dense",
    "SentenceTransformerModelCardData": "omnitune.report.card",
    "SentenceTransformerTrainer": "omnitune.training.trainer",
    "SentenceTransformerTrainingArguments": "omnitune.training.arguments",
    "SimilarityFunction": "omnitune.ops.similarity",
    "SparseEncoder": "omnitune.model.sparse",
    "SparseEncoderModelCardData": "omnitune.report.card",
    "SparseEncoderTrainer": "omnitune.training.trainer",
    "SparseEncoderTrainingArguments": "omnitune.training.arguments",
    "encode_on_ray": "omnitune.retrieval.ray",
    "encode_to_disk": "omnitune.retrieval.to_disk",
    "mine_hard_negatives": "omnitune.retrieval.mining",
    "quantize_embeddings": "omnitune.ops.quantize",
}
_ROOMS = ("documents", "errors", "evaluation", "losses", "models", "modules", "search", "training_args", "util")
_PATHS = ("backend", "base", "cross_encoder", "multi_vector_encoder", "sentence_transformer", "sparse_encoder")
"""Paths of the rival's that scripts write as attributes; its import sets them."""

_LEFT_OUT = {
    "resolve_ids": "use dataset.map with a dictionary from identifier to text",
    **dict.fromkeys(
        (
            "export_dynamic_quantized_onnx_model",
            "export_optimized_onnx_model",
            "export_static_quantized_openvino_model",
        ),
        "use the command: omnitune export MODEL --to onnx [--int8], or --to openvino",
    ),
    **dict.fromkeys(
        ("load_onnx_model", "load_openvino_model"), 'use the argument backend="onnx" or "openvino" of a model'
    ),
}
"""Names of the rival's that are left out, and what takes their place."""

__all__ = ["__version__", *sorted(_HOME), *_ROOMS]

if TYPE_CHECKING:
    from omnitune import (
        documents as documents,
    )
    from omnitune import (
        errors as errors,
    )
    from omnitune import (
        evaluation as evaluation,
    )
    from omnitune import (
        losses as losses,
    )
    from omnitune import (
        models as models,
    )
    from omnitune import (
        modules as modules,
    )
    from omnitune import (
        search as search,
    )
    from omnitune import (
        training_args as training_args,
    )
    from omnitune import (
        util as util,
    )
    from omnitune.compat.examples import InputExample as InputExample
    from omnitune.compat.old_datasets import ParallelSentencesDataset as ParallelSentencesDataset
    from omnitune.compat.old_datasets import SentencesDataset as SentencesDataset
    from omnitune.compat.utilities import LoggingHandler as LoggingHandler
    from omnitune.data.multi_samplers import MultiDatasetBatchSamplers as MultiDatasetBatchSamplers
    from omnitune.data.multi_samplers import MultiDatasetDefaultBatchSampler as MultiDatasetDefaultBatchSampler
    from omnitune.data.samplers import BatchSamplers as BatchSamplers
    from omnitune.data.samplers import DefaultBatchSampler as DefaultBatchSampler
    from omnitune.inputs.policy import DEFAULT_POLICY as DEFAULT_POLICY
    from omnitune.inputs.policy import MediaPolicy as MediaPolicy
    from omnitune.model.dense import SentenceTransformer as SentenceTransformer
    from omnitune.model.multi_vector import MultiVectorEncoder as MultiVectorEncoder
    from omnitune.model.pair import CrossEncoder as CrossEncoder
    from omnitune.model.sparse import SparseEncoder as SparseEncoder
    from omnitune.ops.quantize import quantize_embeddings as quantize_embeddings
    from omnitune.ops.similarity import SimilarityFunction as SimilarityFunction
    from omnitune.report.card import CrossEncoderModelCardData as CrossEncoderModelCardData
    from omnitune.report.card import MultiVectorEncoderModelCardData as MultiVectorEncoderModelCardData
    from omnitune.report.card import SentenceTransformerModelCardData as SentenceTransformerModelCardData
    from omnitune.report.card import SparseEncoderModelCardData as SparseEncoderModelCardData
    from omnitune.retrieval.mining import mine_hard_negatives as mine_hard_negatives
    from omnitune.retrieval.ray import encode_on_ray as encode_on_ray
    from omnitune.retrieval.retriever import Retriever as Retriever
    from omnitune.retrieval.to_disk import encode_to_disk as encode_to_disk
    from omnitune.training.arguments import CrossEncoderTrainingArguments as CrossEncoderTrainingArguments
    from omnitune.training.arguments import MultiVectorEncoderTrainingArguments as MultiVectorEncoderTrainingArguments
    from omnitune.training.arguments import SentenceTransformerTrainingArguments as SentenceTransformerTrainingArguments
    from omnitune.training.arguments import SparseEncoderTrainingArguments as SparseEncoderTrainingArguments
    from omnitune.training.trainer import CrossEncoderTrainer as CrossEncoderTrainer
    from omnitune.training.trainer import MultiVectorEncoderTrainer as MultiVectorEncoderTrainer
    from omnitune.training.trainer import SentenceTransformerTrainer as SentenceTransformerTrainer
    from omnitune.training.trainer import SparseEncoderTrainer as SparseEncoderTrainer


def __getattr__(name: str) -> Any:
    if name in (*_ROOMS, *_PATHS):
        return importlib.import_module(f"omnitune.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "__MODEL_HUB_ORGANIZATION__":  # read by InstructorEmbedding
        return "sentence-transformers"
    if name in _LEFT_OUT:
        raise AttributeError(f"module 'omnitune' has no {name!r} on purpose: {_LEFT_OUT[name]}")
    raise AttributeError(f"module 'omnitune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


_module_paths.install()
