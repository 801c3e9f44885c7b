"""Constructors and methods take the arguments of Sentence Transformers, in its order and with its defaults."""

import inspect

import pytest
from torch import nn

from omnitune.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
    WordEmbeddings,
    WordWeights,
)

KINDS = [Dense, Dropout, LayerNorm, Normalize, Pooling, Router, StaticEmbedding, Transformer]
KINDS += [WeightedLayerPooling, WordEmbeddings, WordWeights]
METHODS = ["__init__", "preprocess", "for_query_document", "from_model2vec", "get_embedding_dimension"]


def shown(default):
    return type(default) if isinstance(default, nn.Module) else default


@pytest.mark.parity
@pytest.mark.parametrize(("kind", "method"), [(k, m) for k in KINDS for m in METHODS if m in vars(k)])
def test_arguments_equal_sentence_transformers(kind, method):
    from sentence_transformers.sentence_transformer import modules

    theirs = getattr(modules, kind.__name__)
    rival, ours = (inspect.signature(getattr(k, method)).parameters.values() for k in (theirs, kind))
    expected = [(p.name, p.kind, shown(p.default)) for p in rival]
    names = {name for name, _, _ in expected}
    assert [(p.name, p.kind, shown(p.default)) for p in ours if p.name in names] == expected
    # What we take beside it is keyword-only, so that no call changes its meaning.
    assert all(p.kind is p.KEYWORD_ONLY for p in ours if p.name not in names)
