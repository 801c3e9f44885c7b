"""Pooling: hand-worked numbers, padding on either side, and every mode against Sentence Transformers."""

import json

import pytest
import torch

from omnitune.errors import InputError
from omnitune.modules import Pooling
from omnitune.modules.pooling import LEGACY_KEYS

MODES = tuple(LEGACY_KEYS.values())  # those that Sentence Transformers has


def pooled(mode, tokens, mask, **features):
    pooling = Pooling(len(tokens[0][0]), mode, include_prompt="prompt_length" not in features)
    given = {"token_embeddings": torch.tensor(tokens), "attention_mask": torch.tensor(mask), **features}
    return pooling(given)["sentence_embedding"].tolist()


TOKENS = [[[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]]]


@pytest.mark.parametrize(
    ("mode", "right", "left"),
    [
        ("cls", [1, 2], [3, 4]),
        ("max", [3, 4], [5, 4]),
        ("mean", [2, 3], [4, 2]),
        ("mean_sqrt_len_tokens", [4 / 2**0.5, 6 / 2**0.5], [8 / 2**0.5, 4 / 2**0.5]),
        ("weightedmean", [7 / 3, 10 / 3], [13 / 3, 4 / 3]),
        ("lasttoken", [3, 4], [5, 0]),
    ],
)
def test_each_mode_with_padding_on_either_side(mode, right, left):
    assert pooled(mode, TOKENS, [[1, 1, 0]]) == [pytest.approx(right)]
    assert pooled(mode, TOKENS, [[0, 1, 1]]) == [pytest.approx(left)]


def test_prompt_tokens_do_not_count_and_the_mask_of_the_caller_stays():
    mask = torch.tensor([[0, 1, 1, 1]])
    features = {"token_embeddings": torch.arange(8.0).reshape(1, 4, 2), "attention_mask": mask, "prompt_length": 1}
    assert Pooling(2, "mean", include_prompt=False)(dict(features))["sentence_embedding"].tolist() == [[5.0, 6.0]]
    assert Pooling(2, "mean", include_prompt=True)(dict(features))["sentence_embedding"].tolist() == [[4.0, 5.0]]
    assert mask.tolist() == [[0, 1, 1, 1]]


def test_a_row_without_tokens_gives_zeros_and_not_its_neighbour():
    assert pooled("lasttoken", TOKENS, [[0, 0, 0]]) == [[0.0, 0.0]]
    assert pooled("mean", TOKENS, [[0, 0, 0]]) == [[0.0, 0.0]]


def test_half_precision_adds_up_in_single():
    tokens = torch.full((1, 4096, 1), 1.001, dtype=torch.float16)
    features = {"token_embeddings": tokens, "attention_mask": torch.ones(1, 4096, dtype=torch.int64)}
    out = Pooling(1, "mean")(features)["sentence_embedding"]
    assert out.dtype is torch.float16
    assert out.item() == tokens[0, 0].item()


def test_a_mask_of_another_length_means_that_all_tokens_count():
    assert pooled("mean", TOKENS, [[1, 0]]) == [[3.0, 2.0]]


def test_several_modes_are_joined_in_their_order():
    pooling = Pooling(2, ("lasttoken", "cls"))
    assert pooling.get_embedding_dimension() == 4
    assert pooled(("lasttoken", "cls"), TOKENS, [[1, 1, 1]]) == [[5.0, 0.0, 1.0, 2.0]]


def test_an_unknown_mode_is_refused():
    with pytest.raises(InputError, match=r"pooling_mode: expected one or more of .*got 'median'"):
        Pooling(2, "median")


@pytest.mark.parametrize("mode", ["mean", ("cls", "mean"), ("mean", "cls")])
def test_configuration_round_trip(tmp_path, mode):
    Pooling(8, mode, include_prompt=False).save(str(tmp_path))
    again = Pooling.load(str(tmp_path))
    assert (again.embedding_dimension, again.pooling_mode, again.include_prompt) == (8, mode, False)
    # The older keys join modes in a fixed order, so only what fits it is written in them.
    assert ("word_embedding_dimension" in json.loads((tmp_path / "config.json").read_text())) == (
        mode != ("mean", "cls")
    )


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": False}, "mean"),
        ({"embedding_dimension": 8, "pooling_mode": ["max", "mean"]}, ("max", "mean")),
        ({"embedding_dimension": 8, "pooling_mode": "max", "pooling_mode_mean_tokens": True}, "max"),
    ],
)
def test_older_and_newer_configurations_are_read(tmp_path, config, mode):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Pooling.load(str(tmp_path)).pooling_mode == mode


@pytest.mark.parity
@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", [*MODES, MODES])
def test_equals_sentence_transformers(mode, side, include_prompt):
    from sentence_transformers.sentence_transformer.modules import Pooling as Rival

    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(4, 7, 5, generator=generator)
    lengths = torch.tensor([7, 4, 3, 5])
    mask = (torch.arange(7) < lengths[:, None]).long()
    mask = mask if side == "right" else mask.flip(1)
    outputs, gradients = [], []
    for kind in (Pooling, Rival):
        leaf = tokens.clone().requires_grad_()
        features = {"token_embeddings": leaf, "attention_mask": mask.clone(), "prompt_length": 2}
        out = kind(5, mode, include_prompt)(features)["sentence_embedding"]
        out.square().sum().backward()
        outputs.append(out)
        gradients.append(leaf.grad)
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)
