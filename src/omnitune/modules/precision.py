"""Single layers that compute in float32 inside a model of lower precision."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError


class Float32Linear(nn.Linear):
    """A linear layer that computes and returns float32, also under autocast; its weights keep their dtype."""

    def forward(self, input: Tensor) -> Tensor:
        """`(..., out_features)`, float32."""
        with torch.autocast(device_type=input.device.type, enabled=False):
            return F.linear(input.float(), self.weight.float(), None if self.bias is None else self.bias.float())


def compute_in_float32(model: nn.Module, names: Sequence[str]) -> None:
    """Let the named layers compute in float32, and no others.

    Args:
        model: The model.
        names: Paths of linear layers, as in `named_modules()`.

    Raises:
        InputError: A path leads to no plain linear layer.
    """
    layers = dict(model.named_modules())
    wrong = {name: type(layers.get(name)).__name__ for name in names
             if type(layers.get(name)) not in (nn.Linear, Float32Linear)}  # fmt: skip
    if wrong:
        raise InputError(f"keep_in_fp32_modules: expected paths of torch.nn.Linear layers, got {wrong}")
    for name, layer in layers.items():
        if type(layer) in (nn.Linear, Float32Linear):
            layer.__class__ = Float32Linear if name in names else nn.Linear
