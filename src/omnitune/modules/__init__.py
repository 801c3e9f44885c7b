"""The modules a checkpoint lists: from inputs to token vectors to one embedding."""

from omnitune.modules.base import InputModule, Module
from omnitune.modules.dense import Dense
from omnitune.modules.logit_score import LogitScore
from omnitune.modules.multi_vector_mask import MultiVectorMask
from omnitune.modules.normalize import Dropout, LayerNorm, Normalize
from omnitune.modules.old_classes import MLMTransformer
from omnitune.modules.pooling import Pooling
from omnitune.modules.readers.audio import AudioReader
from omnitune.modules.readers.clip import ClipReader
from omnitune.modules.readers.text import TextReader
from omnitune.modules.router import Router
from omnitune.modules.sparse_auto_encoder import SparseAutoEncoder
from omnitune.modules.sparse_static_embedding import SparseStaticEmbedding
from omnitune.modules.splade_pooling import SpladePooling
from omnitune.modules.static_embedding import StaticEmbedding
from omnitune.modules.token_pooling import BaseTokenPooling, HierarchicalTokenPooling, LambdaTokenPooling
from omnitune.modules.token_weights import TokenWeights
from omnitune.modules.transformer import Transformer
from omnitune.modules.weighted_layer_pooling import WeightedLayerPooling
from omnitune.modules.word_embeddings import WhitespaceTokenizer, WordEmbeddings, WordWeights

__all__ = [
    "AudioReader",
    "BaseTokenPooling",
    "ClipReader",
    "Dense",
    "Dropout",
    "HierarchicalTokenPooling",
    "InputModule",
    "LambdaTokenPooling",
    "LayerNorm",
    "LogitScore",
    "MLMTransformer",
    "Module",
    "MultiVectorMask",
    "Normalize",
    "Pooling",
    "Router",
    "SparseAutoEncoder",
    "SparseStaticEmbedding",
    "SpladePooling",
    "StaticEmbedding",
    "TextReader",
    "TokenWeights",
    "Transformer",
    "WeightedLayerPooling",
    "WhitespaceTokenizer",
    "WordEmbeddings",
    "WordWeights",
]
