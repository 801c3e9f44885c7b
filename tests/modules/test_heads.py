"""Dense, Normalize, LayerNorm, Dropout: arithmetic, files, and activation functions by list."""

import json

import pytest
import torch
from torch import nn

from omnitune.errors import CheckpointError, InputError, UntrustedCodeError
from omnitune.modules import Dense, Dropout, LayerNorm, Normalize
from omnitune.modules.dense import ACTIVATIONS, activation_name, activation_named


def test_dense_applies_its_activation_to_the_linear_layer():
    dense = Dense(
        2, 1, activation_function=nn.ReLU(), init_weight=torch.tensor([[1.0, -2.0]]), init_bias=torch.zeros(1)
    )
    out = dense({"sentence_embedding": torch.tensor([[3.0, 1.0], [1.0, 3.0]])})
    assert out["sentence_embedding"].tolist() == [[1.0], [0.0]]


def test_dense_adds_the_input_where_there_is_a_residual():
    dense = Dense(1, 1, bias=False, activation_function=None, init_weight=torch.tensor([[2.0]]), use_residual=True)
    assert dense({"sentence_embedding": torch.tensor([[5.0]])})["sentence_embedding"].item() == 15.0
    assert set(Dense(2, 3, use_residual=True).state_dict()) == {"linear.weight", "linear.bias", "residual.weight"}


@pytest.mark.parametrize(
    "module",
    [
        Dense(4, 3),
        Dense(4, 3, bias=False, activation_function=nn.GELU(), use_residual=True),
        Dense(4, 3, activation_function=None, module_input_name="token_embeddings"),
        Normalize(),
        Normalize("token_embeddings"),
        LayerNorm(4),
        Dropout(0.5),
    ],
)
def test_round_trip(tmp_path, module):
    module.eval().save(str(tmp_path))
    again = type(module).load(str(tmp_path)).eval()
    assert again.get_config_dict() == module.get_config_dict()
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    features = [m({"sentence_embedding": x, "token_embeddings": x}) for m in (module, again)]
    torch.testing.assert_close(features[0], features[1])


def test_normalize_gives_unit_length():
    out = Normalize()({"sentence_embedding": torch.tensor([[3.0, 4.0]])})
    assert out["sentence_embedding"].tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_listed_activation_is_found_by_the_name_it_is_written_under(kind):
    assert type(activation_named(activation_name(kind()))) is kind
    assert type(activation_named(f"torch.nn.{kind.__name__}")) is kind


@pytest.mark.parametrize("name", ["os.getcwd", "torch.get_num_threads", "torch.nn.Linear", "subprocess.Popen"])
def test_an_activation_that_is_not_listed_is_never_imported(tmp_path, name):
    config = {"in_features": 2, "out_features": 2, "activation_function": name}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UntrustedCodeError, match=r"activation_function: expected one of .*Tanh.*trust_remote_code=True"
    ):
        Dense.load(str(tmp_path))


def test_a_trusted_activation_that_cannot_be_imported_says_so():
    assert isinstance(activation_named("torch.nn.modules.linear.Identity", trust_remote_code=True), nn.Identity)
    with pytest.raises(CheckpointError, match="'nowhere.Swish' cannot be imported"):
        activation_named("nowhere.Swish", trust_remote_code=True)


def test_weights_that_do_not_fit_are_named(tmp_path):
    Dense(4, 3).save(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "out_features": 2, "use_residual": True}))
    with pytest.raises(
        CheckpointError, match=r"missing \['residual.weight'\]; of another shape \['linear.bias', 'linear.w"
    ):
        Dense.load(str(tmp_path))


def test_an_unknown_key_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "config.json").write_text('{"dimension": 4, "epsilon": 1}')
    with pytest.raises(CheckpointError, match=r"config.json: it does not configure a LayerNorm .*'epsilon'"):
        LayerNorm.load(str(tmp_path))


def test_pickled_weights_are_not_read_and_the_error_says_how_to_convert_them(tmp_path):
    dense = Dense(2, 2)
    dense.save(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(dense.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are not read, because a pickle can run code") as caught:
        Dense.load(str(tmp_path))
    command = str(caught.value).split('python -c "', 1)[1].rsplit('"', 1)[0]
    exec(command)
    torch.testing.assert_close(Dense.load(str(tmp_path)).state_dict(), dense.state_dict())


def test_pickles_are_not_written(tmp_path):
    with pytest.raises(InputError, match="only safetensors files are written"):
        Dense(2, 2).save(str(tmp_path), safe_serialization=False)


@pytest.mark.parity
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Identity(), nn.GELU()])
def test_dense_and_normalize_equal_sentence_transformers_both_ways(tmp_path, activation, residual):
    from sentence_transformers.base.modules import Dense as RivalDense
    from sentence_transformers.base.modules import Normalize as RivalNormalize

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for writer, reader in ((Dense, RivalDense), (RivalDense, Dense)):
        written = writer(4, 3, activation_function=activation, use_residual=residual)
        folder = tmp_path / f"{writer.__module__}"
        folder.mkdir()
        written.save(str(folder))
        read = reader.load(str(folder))
        out = [m({"sentence_embedding": x})["sentence_embedding"] for m in (written, read)]
        torch.testing.assert_close(*out, rtol=0, atol=0)
    norms = [m()({"sentence_embedding": x})["sentence_embedding"] for m in (Normalize, RivalNormalize)]
    torch.testing.assert_close(*norms, rtol=0, atol=0)


def test_a_broken_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json: expected JSON, got something else"):
        Normalize.load(str(tmp_path))
