"""Patch embeddings as matrix products: the numbers of the convolution, its names, and no other convolution."""

from pathlib import Path

import pytest
import torch
from torch import nn

from omnitune.modules import Transformer
from omnitune.modules.patches import PatchProduct, embed_patches_by_product


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution(bias: bool) -> None:
    convolution = nn.Conv3d(3, 16, (2, 4, 4), stride=(2, 4, 4), bias=bias)
    product = PatchProduct.of(convolution)
    patches = torch.randn(7, 3, 2, 4, 4)
    expected, found = convolution(patches), product(patches)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    weights = list(convolution.parameters())
    assert [id(w) for w in product.parameters()] == [id(w) for w in weights]
    for first, second in zip(
        torch.autograd.grad(expected.square().sum(), weights), torch.autograd.grad(found.square().sum(), weights),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(second, first, rtol=1e-5, atol=1e-4)
    whole_clip = torch.randn(1, 3, 4, 8, 8)
    assert torch.equal(product(whole_clip), convolution(whole_clip))


def test_only_what_cuts_patches_is_replaced() -> None:
    plain = nn.Conv3d(3, 4, 2, stride=2)
    others = [nn.Conv3d(3, 4, 3, stride=2), nn.Conv3d(4, 4, 2, stride=2, groups=2), nn.Conv2d(3, 4, 2, stride=2),
              nn.Conv3d(3, 4, 2, stride=2, padding=1)]  # fmt: skip
    model = nn.ModuleList([plain, *others])
    embed_patches_by_product(model)
    assert [type(part) is PatchProduct for part in model] == [True, False, False, False, False]


def test_a_checkpoint_keeps_its_names(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    module = Transformer(str(tiny_qwen3_vl))
    assert isinstance(module.model.visual.patch_embed.proj, PatchProduct)
    module.save(str(tmp_path))
    again = Transformer(str(tmp_path))
    before, after = module.model.state_dict(), again.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
