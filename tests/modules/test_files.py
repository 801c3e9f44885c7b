"""Weights of a head that do not fit it are named; how the hub is reached has two spellings."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from omnitune.errors import CheckpointError
from omnitune.modules import Dense
from omnitune.modules.files import HubOptions


def test_weights_that_do_not_fit_name_what_is_wrong(tmp_path):
    Dense(4, 2).save(str(tmp_path))
    save_file({"linear.weight": torch.zeros(3, 4), "other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"does not fit Dense: missing \['linear.bias'\]; superfluous \['other'\]; of another shape",
    ):
        Dense.load(str(tmp_path))


def test_hub_options_as_arguments_of_transformers():
    options = HubOptions(token="t", cache_folder="c", revision="r", local_files_only=True)
    assert options.kwargs() == {"token": "t", "cache_dir": "c", "revision": "r", "local_files_only": True}
    assert HubOptions.from_kwargs({**options.kwargs(), "dtype": "bfloat16"}) == options
    assert HubOptions().kwargs() == {}
    assert dataclasses.replace(options, token=False).kwargs()["token"] is False
