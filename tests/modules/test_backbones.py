"""The table of architectures: its classes are there, and it says what Sentence Transformers says."""

import importlib

import pytest
from transformers import CONFIG_MAPPING, PreTrainedModel

from omnitune.modules.backbones import BACKBONES, TOKENS, backbone

NOT_HERE = {"t5gemma2_text"}
"""An encoder that Sentence Transformers lists and we do not: it has its own loading."""

OURS_ALONE = {"xclip"}
"""Rows for video, which Sentence Transformers does not read with these models."""


def test_every_row_is_an_architecture_of_transformers():
    assert set(BACKBONES) <= set(CONFIG_MAPPING)


@pytest.mark.parametrize("name", [name for name, row in BACKBONES.items() if row.encoder])
def test_every_encoder_is_there(name):
    package, _, kind = BACKBONES[name].encoder.partition(":")
    assert issubclass(getattr(importlib.import_module(package), kind), PreTrainedModel)


def test_an_architecture_without_a_row_follows_the_general_rules():
    row = backbone("bert")
    assert (row.encoder, row.outputs, row.output_name) == (None, None, TOKENS)


@pytest.mark.parity
def test_the_table_agrees_with_sentence_transformers():
    from sentence_transformers.base import modality
    from sentence_transformers.base.modules import transformer as rival

    for name, row in BACKBONES.items():
        if row.outputs is not None:
            if name in OURS_ALONE:
                continue
            config, output_name, _ = rival._FEATURE_EXTRACTION_EDGE_CASES[name]
            assert {kind: (p["method"], p["method_output_name"]) for kind, p in config.items()} == row.outputs
            assert output_name == row.output_name
    encoders = {config.model_type: kind for config, _, kind in rival._ENCODER_ONLY_MODELS}
    assert {name: row.encoder.rpartition(":")[2] for name, row in BACKBONES.items() if row.encoder} == {
        name: kind for name, kind in encoders.items() if name not in NOT_HERE
    }
    flat = {name for name, row in BACKBONES.items() if row.structured_messages is False}
    assert flat == {name for name, form in modality.KNOWN_MODEL_TYPES_MESSAGE_FORMATS.items() if form == "flat"}
