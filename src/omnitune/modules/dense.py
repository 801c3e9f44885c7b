"""A linear layer with an activation function, on pooled or on token embeddings.

The name of an activation function that a file gives is looked up here, never imported.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from omnitune.errors import CheckpointError, UntrustedCodeError
from omnitune.modules import files
from omnitune.modules.base import Module
from omnitune.types import Features


class Dense(Module):
    """`activation(linear(x))`, optionally with a residual connection.

    Args:
        in_features: Dimension of the input.
        out_features: Dimension of the output.
        bias: Whether the linear layer has a bias.
        activation_function: Applied after the linear layer; None for none.
        init_weight: The layer's first weight `(out_features, in_features)`.
        init_bias: Its first bias `(out_features,)`.
        module_input_name: Feature that is read.
        module_output_name: Feature that is written; None for the one that is read.
        use_residual: Add the input to the output, through a linear layer of its own where the dimensions differ.

    Example:
        >>> smaller = SentenceTransformer(modules=[*model, Dense(384, 64, activation_function=None)])
        >>> smaller.encode(pages).shape
        (2, 64)
    """

    config_keys: ClassVar[list[str]] = [
        "in_features",
        "out_features",
        "bias",
        "activation_function",
        "module_input_name",
        "module_output_name",
        "use_residual",
    ]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation_function: Callable[[Tensor], Tensor] | None = nn.Tanh(),  # noqa: B008 - stateless; ST's default
        init_weight: Tensor | None = None,
        init_bias: Tensor | None = None,
        module_input_name: str = "sentence_embedding",
        module_output_name: str | None = None,
        use_residual: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias = bias
        self.activation_function = nn.Identity() if activation_function is None else activation_function
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name
        self.use_residual = use_residual
        if use_residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)
        if init_weight is not None:
            self.linear.weight = nn.Parameter(init_weight)
        if init_bias is not None and bias:
            self.linear.bias = nn.Parameter(init_bias)

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `module_output_name` `(..., out_features)`."""
        x = features[self.module_input_name]
        out = self.activation_function(self.linear(x))
        if self.use_residual:
            out = out + (x if self.in_features == self.out_features else self.residual(x))
        features[self.module_output_name] = out
        return features

    def get_embedding_dimension(self) -> int:
        """Dimension of the output."""
        return self.out_features

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments; `use_residual` only where it is set, as older readers do not know it."""
        config = {**super().get_config_dict(), "activation_function": activation_name(self.activation_function)}
        return config if self.use_residual else {key: value for key, value in config.items() if key != "use_residual"}

    def save_config(self, output_path: str, filename: str | None = None) -> None:
        """Write the configuration; a plain layer in the keys that every reader knows."""
        config = self.get_config_dict()
        if self.module_input_name == self.module_output_name == "sentence_embedding":
            del config["module_input_name"], config["module_output_name"]
        files.write_json(Path(output_path) / (filename or self.config_file_name), config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], folder: Path, **kwargs: Any) -> Self:
        """The layer that a configuration describes, its weights not yet read.

        Raises:
            UntrustedCodeError: Its activation function is not one that is known, and code is not trusted.
            CheckpointError: The constructor has no such arguments.
        """
        trust = bool(kwargs.get("trust_remote_code"))
        named = config.get("activation_function")
        changed = {} if named is None else {"activation_function": activation_named(named, trust_remote_code=trust)}
        return super().from_config({**config, **changed}, folder)


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
