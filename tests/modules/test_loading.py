"""An encoder is taken out of checkpoints of encoder and decoder with all of its weights."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from omnitune.errors import CheckpointError
from omnitune.modules import loading
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
