"""Merged models: means and arcs by hand, inputs untouched, and everything that cannot be merged refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnitune import CrossEncoder, SentenceTransformer
from omnitune.errors import InputError, ShapeError
from omnitune.modules import Pooling


def other(model: Any, seed: int) -> Any:
    made = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return made


@pytest.fixture
def pair(tiny_bert: Path) -> list[SentenceTransformer]:
    first = SentenceTransformer(str(tiny_bert), device="cpu", prompts={"query": "q: "})
    return [first, other(first, 1)]


def test_the_weighted_mean(pair: list[SentenceTransformer], tmp_path: Path) -> None:
    before = [{name: t.clone() for name, t in model.state_dict().items()} for model in pair]
    merged = SentenceTransformer.merge(pair, parameters={"weight": [3, 1]})
    for name, found in merged.state_dict().items():
        torch.testing.assert_close(found, 0.75 * before[0][name] + 0.25 * before[1][name])
    for model, state in zip(pair, before, strict=True):
        assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert not merged.training and merged.prompts == pair[0].prompts
    merged.save_pretrained(str(tmp_path / "m"))
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "m")).encode("a"), merged.encode("a"), atol=1e-6)
    for path, model in zip("ab", pair, strict=True):
        model.save_pretrained(str(tmp_path / path))
    again = SentenceTransformer.merge([str(tmp_path / "a"), tmp_path / "b"], parameters={"weight": [3, 1]})
    np.testing.assert_allclose(again.encode("a"), merged.encode("a"), atol=1e-6)
    summed = SentenceTransformer.merge(pair, parameters={"weight": 0.5, "normalize": False}, out_dtype="float16")
    assert {t.dtype for t in summed.state_dict().values() if t.is_floating_point()} == {torch.float16}


def test_the_arc_by_hand(pair: list[SentenceTransformer]) -> None:
    name = next(name for name, t in pair[0].state_dict().items() if t.numel() > 100)
    with torch.no_grad():
        for model, axis in zip(pair, (0, 1), strict=True):
            weight = model.state_dict()[name]
            weight.zero_()
            weight.view(-1)[axis] = 2.0
    merged = SentenceTransformer.merge(pair, "slerp", parameters={"t": 1 / 3}).state_dict()[name].view(-1)
    expected = [2 * np.cos(np.pi / 6), 2 * np.sin(np.pi / 6)]
    assert merged[:2].tolist() == pytest.approx(expected, abs=1e-6)
    turned = SentenceTransformer.merge(pair, "slerp", base_model=pair[1], parameters={"t": 0.0}).state_dict()[name]
    assert torch.equal(turned, pair[1].state_dict()[name])
    same = SentenceTransformer.merge([pair[0], copy.deepcopy(pair[0])], "slerp").state_dict()[name]
    torch.testing.assert_close(same, pair[0].state_dict()[name])


def test_rerankers_merge_too(tiny_bert: Path) -> None:
    first = CrossEncoder(str(tiny_bert), num_labels=1, device="cpu")
    merged = CrossEncoder.merge([first, other(first, 2), other(first, 3)])
    assert merged.predict([("a", "b")]).shape == (1,)


def test_what_cannot_be_merged(pair: list[SentenceTransformer], tiny_bert: Path) -> None:
    first, second = pair
    pooled = SentenceTransformer(modules=[first[0], Pooling(32, "cls")], device="cpu")
    wrong: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ([first], {}, InputError, "models: expected at least two"),
        (pair, {"method": "ties"}, InputError, r"method: expected one of \['linear', 'slerp'\], got 'ties'"),
        (pair, {"parameters": {"t": 0.5}}, InputError, r"parameters: expected \('weight', 'normalize'\)"),
        (pair, {"parameters": {"weight": [1, 2, 3]}}, InputError, "a weight for each of 2 models, got 3"),
        (pair, {"parameters": {"weight": [1, -1]}}, InputError, "that do not add up to 0"),
        (pair, {"method": "slerp", "parameters": {"t": 2}}, InputError, r"expected t in \[0, 1\]"),
        ([*pair, first], {"method": "slerp"}, InputError, "expected two for 'slerp', got 3"),
        (pair, {"base_model": first}, InputError, "base_model: expected None for 'linear'"),
        (pair, {"dtype": "float5"}, InputError, "dtype: expected a torch dtype"),
        ([first, 5], {}, InputError, r"models\[1\]: expected a SentenceTransformer or a path, got int"),
        ([first, pooled], {}, ShapeError, r"models\[1\]: expected module '1' to be as in models\[0\]"),
        ([first, SentenceTransformer(modules=[second[0]])], {}, ShapeError, r"expected the modules of models\[0\]"),
    ]
    for models, options, error, message in wrong:
        with pytest.raises(error, match=message):
            SentenceTransformer.merge(models, **options)
