"""Activation functions that a configuration may name. A name from a file is looked up here, never imported."""

import importlib
from typing import Any

from torch import nn

from omnitune.errors import CheckpointError, UntrustedCodeError

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
)

_BY_NAME: dict[str, type[nn.Module]] = {
    name: kind
    for kind in ACTIVATIONS
    for name in (f"{kind.__module__}.{kind.__name__}", f"torch.nn.{kind.__name__}", f"torch.nn.modules.{kind.__name__}")
}


def activation_named(name: str, *, trust_remote_code: bool = False) -> Any:
    """A new activation function.

    Args:
        name: Dotted name, e.g. `"torch.nn.modules.activation.Tanh"`.
        trust_remote_code: Whether a class that is not listed here may be imported.

    Raises:
        UntrustedCodeError: The name is not listed and `trust_remote_code` is False.
        CheckpointError: It is trusted and cannot be imported.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]()
    if not trust_remote_code:
        known = ", ".join(sorted(kind.__name__ for kind in ACTIVATIONS))
        raise UntrustedCodeError(
            f"activation_function: expected one of torch.nn's {known}; got {name!r}, which would import code that the "
            "checkpoint names. If you trust the checkpoint, load it with trust_remote_code=True"
        )
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(f"activation_function: {name!r} cannot be imported ({error})") from error


def activation_name(activation: Any) -> str:
    """The dotted name under which a configuration keeps `activation`."""
    kind = activation if isinstance(activation, type) or not isinstance(activation, nn.Module) else type(activation)
    return f"{kind.__module__}.{kind.__qualname__}"
