"""Backbones are read whole or refused: every weight is there, and odd values in a checkpoint are one sentence."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from omnitune import CrossEncoder, SentenceTransformer
from omnitune.errors import CheckpointError, OmnituneError
from omnitune.modules import Dense, Transformer, loading
from omnitune.modules.tasks import task_named

ENCODING = task_named("feature-extraction")
SIZES = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
WHISPER = {**SIZES, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 10}


@pytest.mark.parametrize(("kind", "sizes"), [
    ("Marian", SIZES), ("M2M100", SIZES), ("Pegasus", SIZES), ("Blenderbot", SIZES), ("Whisper", WHISPER),
])  # fmt: skip
@pytest.mark.parametrize("head", ["Model", "ForConditionalGeneration"])
def test_encoders_have_their_weights_and_keep_them(tmp_path, kind, sizes, head):
    head = "MTModel" if (kind, head) == ("Marian", "ForConditionalGeneration") else head
    config = getattr(transformers, f"{kind}Config")(**sizes)
    whole = getattr(transformers, kind + head)(config)
    whole.save_pretrained(tmp_path / "whole")

    def read(folder):
        return loading.load_model(folder, "name", ENCODING, loading.load_config(folder, ENCODING, {}), {})

    encoder = read(tmp_path / "whole")
    encoder.save_pretrained(tmp_path / "saved")
    again = read(tmp_path / "saved").state_dict()
    for name, weight in whole.get_encoder().state_dict().items():
        assert torch.equal(encoder.state_dict()[name], weight), name
        assert torch.equal(again[name], weight), name


def test_an_encoder_without_weights_is_refused(tmp_path):
    transformers.WhisperModel(transformers.WhisperConfig(**WHISPER)).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if "conv1" not in name}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected the weights of a WhisperEncoder, got none for .'conv1.bias'"):
        loading.load_model(tmp_path, "name", ENCODING, loading.load_config(tmp_path, ENCODING, {}), {})


def without(folder, copy, *names):
    """A copy of a checkpoint whose weights lack those with one of these words in their names."""
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not any(word in name for word in names)}
    assert len(kept) < len(weights)
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


@pytest.mark.parametrize("lost", ["word_embeddings", "layer.1.attention.self.query", "LayerNorm.bias"])
@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder])
def test_a_backbone_without_some_of_its_weights_is_refused(tiny_bert, tmp_path, lost, kind):
    with pytest.raises(CheckpointError, match=f"expected the weights of a Bert.*got none for .*{lost}.*random numbers"):
        kind(without(tiny_bert, tmp_path / "cut", lost), device="cpu")


def test_a_tokenizer_without_its_words_is_refused(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "model")
    (tmp_path / "model/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"expected the words of its \w+ in .*tokenizer.json.*, got no such file"):
        SentenceTransformer(str(tmp_path / "model"), device="cpu")


def test_a_pooler_may_be_missing_as_token_vectors_do_not_pass_it(tiny_bert, tmp_path):
    cut = SentenceTransformer(without(tiny_bert, tmp_path / "cut", "pooler"), device="cpu")
    whole = SentenceTransformer(str(tiny_bert), device="cpu")
    assert (cut.encode("a page") == whole.encode("a page")).all()


def test_a_head_is_new_on_a_backbone_and_never_on_a_trained_classifier(tiny_bert, tmp_path):
    CrossEncoder(str(tiny_bert), device="cpu").save_pretrained(str(tmp_path / "trained"))
    with pytest.raises(CheckpointError, match=r"BertForSequenceClassification, got none for \['classifier.bias'"):
        CrossEncoder(without(tmp_path / "trained", tmp_path / "cut", "classifier"), device="cpu")


def test_a_language_model_without_its_output_layer_is_refused(tiny_qwen3, tmp_path):
    shutil.copytree(tiny_qwen3, tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(tiny_qwen3, tie_word_embeddings=False)
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path / "model")
    Transformer(str(tmp_path / "model"), transformer_task="text-generation")
    with pytest.raises(CheckpointError, match="got none for .'lm_head.weight'"):
        Transformer(without(tmp_path / "model", tmp_path / "cut", "lm_head"), transformer_task="text-generation")


@pytest.mark.parametrize("change", [
    {"num_hidden_layers": 10**6}, {"num_labels": 10**9}, {"text_config": {"num_hidden_layers": 10**7}},
    {"num_hidden_layers": 0}, {"num_hidden_layers": -3}, {"num_attention_heads": -1}, {"layer_norm_eps": math.nan},
])  # fmt: skip
def test_a_count_that_no_model_has_is_refused_before_anything_is_built(tiny_bert, tmp_path, change):
    shutil.copytree(tiny_bert, tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        CheckpointError,
        match=r"expected (at (most 1.?0.*, got 1.?0|least 1, got)|a number, got NaN).*; the file is damaged",
    ):
        SentenceTransformer(str(tmp_path / "model"), device="cpu")


def test_weights_of_other_sizes_are_one_sentence(tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 10**9}))
    with pytest.raises(CheckpointError, match=r"model: expected weights of the sizes that its config.json says"):
        SentenceTransformer(str(tmp_path / "model"), device="cpu")


def test_a_head_of_another_size_is_new_where_it_is_asked_for(tiny_bert, tmp_path):
    CrossEncoder(str(tiny_bert), num_labels=1, device="cpu").save_pretrained(tmp_path / "one")
    with pytest.raises(CheckpointError, match=r'another num_labels, add model_kwargs=."ignore_mismatched_sizes": True'):
        CrossEncoder(str(tmp_path / "one"), num_labels=3, device="cpu")
    new = {"ignore_mismatched_sizes": True}
    three = CrossEncoder(str(tmp_path / "one"), num_labels=3, model_kwargs=new, device="cpu")
    assert three.predict([("a", "b")]).shape == (1, 3)
    three.save_pretrained(tmp_path / "three")
    assert not any("mismatched" in file.read_text() for file in (tmp_path / "three").rglob("*.json"))
    again = CrossEncoder(str(tmp_path / "three"), device="cpu")
    np.testing.assert_array_equal(again.predict([("a", "b")]), three.predict([("a", "b")]))

    path = tmp_path / "one/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 32}))
    with pytest.raises(CheckpointError, match="expected the weights of a BertForSequenceClassification, got none"):
        CrossEncoder(str(tmp_path / "one"), num_labels=3, model_kwargs=new, device="cpu")


ODD = {
    "config.json": [
        {"model_type": "no-such"}, {"model_type": 5}, {"hidden_size": "x"}, {"hidden_size": -1}, {"hidden_size": 0},
        {"num_attention_heads": 5}, {"num_attention_heads": 0}, {"hidden_act": "nonsense"}, {"vocab_size": 3},
        {"vocab_size": None}, {"num_hidden_layers": "two"}, {"architectures": 5}, {"architectures": [None]},
        {"dtype": "float99"}, {"max_position_embeddings": "x"}, {"max_position_embeddings": None}, {"num_labels": "x"},
        {"id2label": 3}, {"quantization_config": {"quant_method": "none such"}},
    ],
    "tokenizer_config.json": [
        {"tokenizer_class": "NoSuch"}, {"tokenizer_class": 5}, {"model_max_length": "x"}, {"model_max_length": None},
        {"model_max_length": -3}, {"pad_token": 5}, {"pad_token": {"a": 1}}, {"added_tokens_decoder": 3},
    ],
    "tokenizer.json": [{"model": None}, {"model": {"type": "none"}}, {"version": 3}],
    "modules.json": [
        {"path": None}, {"path": 5}, {"path": "x" * 5000}, {"path": "\x00"}, {"type": None}, {"type": 5}, {"type": ""},
        {"type": "x" * 5000}, {"name": None}, {"name": "a.b"}, {"name": ""}, {"kwargs": 5}, {"kwargs": None},
        {"type": "sentence_transformers.models.Transformer", "path": "1_Pooling"},
    ],
    "config_sentence_transformers.json": [
        {"prompts": ["a"]}, {"prompts": "a"}, {"prompts": {"query": 5}}, {"prompts": 5}, {"prompts": None},
        {"default_prompt_name": 5}, {"default_prompt_name": []}, {"similarity_fn_name": 5}, {"similarity_fn_name": []},
        {"truncate_dim": "x"}, {"truncate_dim": -1}, {"truncate_dim": 1.5}, {"model_type": 5}, {"model_type": None},
        {"requirements": 5}, {"requirements": ["a"]}, {"requirements": {"a": None}}, {"__version__": 5},
    ],
    "sentence_bert_config.json": [
        {"max_seq_length": "x"}, {"max_seq_length": -1}, {"max_seq_length": 1.5}, {"max_seq_length": [3]},
        {"do_lower_case": "x"}, {"model_args": 5}, {"transformer_task": 5}, {"transformer_task": []},
        {"modality_config": 5}, {"modality_config": {}}, {"modality_config": {"text": {"method": 5,
         "method_output_name": 5}}}, {"module_output_name": 5}, {"query_length": "x"}, {"processing_kwargs": 5},
        {"processing_kwargs": {"text": 5}}, {"model_kwargs": {"dtype": "x"}}, {"model_kwargs": {"no_such": 5}},
        {"processor_kwargs": {"padding_side": "up"}}, {"config_kwargs": {"hidden_size": "x"}},
        {"unpad_inputs": "x"}, {"tokenizer_name_or_path": 5},
    ],
    "1_Pooling/config.json": [
        {"word_embedding_dimension": "x"}, {"word_embedding_dimension": -1}, {"word_embedding_dimension": None},
        {"pooling_mode_mean_tokens": "x"}, {"pooling_mode": 5}, {"pooling_mode": "none such"}, {"include_prompt": 5},
        {"embedding_dimension": []}, {"embedding_dimension": 10**12}, {"no_such": 1},
    ],
    "2_Dense/config.json": [
        {"in_features": "x"}, {"in_features": -1}, {"in_features": 10**12}, {"out_features": 10**6,
         "in_features": 10**6}, {"activation_function": 5}, {"activation_function": "os.system"}, {"bias": "x"},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def three_modules(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    model = SentenceTransformer(str(tiny_bert), device="cpu")
    dense = Dense(model.get_embedding_dimension(), 8)
    SentenceTransformer(modules=[*model, dense], device="cpu").save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, odd in ODD.items() for change in odd])
def test_an_odd_value_in_a_checkpoint_works_or_is_one_sentence(three_modules, tmp_path, name, change):
    folder = tmp_path / "model"
    shutil.copytree(three_modules, folder)
    content = json.loads((folder / name).read_text())
    if name == "modules.json":
        content[1] = content[1] | change
    else:
        content |= change
    (folder / name).write_text(json.dumps(content))
    try:
        vector = SentenceTransformer(str(folder), device="cpu").encode("a page", prompt_name=None)
    except OmnituneError as error:
        assert str(error).strip()
        assert len(str(error)) < 700
    else:
        assert np.isfinite(vector).all()


@pytest.mark.parametrize("name", [*ODD, "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe\x00"])
def test_a_file_of_a_checkpoint_that_holds_something_else_is_one_sentence(three_modules, tmp_path, name, content):
    folder = tmp_path / "model"
    shutil.copytree(three_modules, folder)
    (folder / name).write_bytes(content)
    try:
        vector = SentenceTransformer(str(folder), device="cpu").encode("a page")
    except OmnituneError as error:
        assert len(str(error)) < 700
    else:
        assert np.isfinite(vector).all()
