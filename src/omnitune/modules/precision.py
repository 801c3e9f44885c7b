"""In which number format a model computes: bfloat16 where that is fast, float32 for single layers inside of it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune import runtime
from omnitune.errors import InputError

logger = logging.getLogger(__name__)

AUTO_BFLOAT16 = "auto-bf16"
"""`dtype` in `model_kwargs` that asks for bfloat16 where the device has it. It is for inference: weights that train in
bfloat16 lose small updates, so training keeps them in float32 and takes `bf16=True` of its arguments (autocast)."""


def settled(model_kwargs: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` whose `dtype` is one that it knows.

    Args:
        model_kwargs: As a user gave them; `dtype="auto-bf16"` becomes bfloat16 where `device` computes it in hardware,
            and float32, with a warning, where it does not.
        device: Where the model will compute.
    """
    if model_kwargs.get("dtype") != AUTO_BFLOAT16:
        return dict(model_kwargs)
    has = runtime.computes_bfloat16(device)
    if not has:
        logger.warning("dtype: %r is float32 here, because %s has no bfloat16 products.", AUTO_BFLOAT16, device)
    return {**model_kwargs, "dtype": torch.bfloat16 if has else torch.float32}


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
