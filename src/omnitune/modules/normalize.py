"""Unit length, and the two other small modules that keep the dimension: layer norm and dropout."""

from typing import ClassVar

from torch import nn
from torch.nn import functional as F

from omnitune.modules.base import Module
from omnitune.types import Features


class Normalize(Module):
    """Scales embeddings to unit Euclidean length.

    Args:
        module_input_name: Feature that is read; `"token_embeddings"` scales every token's vector.
        module_output_name: Feature that is written; None for the one that is read.

    Example:
        >>> Normalize()({"sentence_embedding": torch.tensor([[3.0, 4.0]])})["sentence_embedding"]
        tensor([[0.6000, 0.8000]])
    """

    config_keys: ClassVar[list[str]] = ["module_input_name", "module_output_name"]

    def __init__(self, module_input_name: str = "sentence_embedding", module_output_name: str | None = None) -> None:
        super().__init__()
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `module_output_name` `(..., dim)` of length 1."""
        features[self.module_output_name] = F.normalize(features[self.module_input_name], p=2, dim=-1)
        return features

    def save_config(self, output_path: str, filename: str | None = None) -> None:
        """Write the configuration, and nothing where it is the one every reader assumes."""
        if self.get_config_dict() != Normalize().get_config_dict():
            super().save_config(output_path, filename)


class LayerNorm(Module):
    """Layer normalisation of pooled embeddings.

    Args:
        dimension: Their dimension.

    Example:
        >>> scaled = LayerNorm(2)({"sentence_embedding": torch.tensor([[1.0, 3.0]])})["sentence_embedding"]
        >>> scaled.detach().round(decimals=2)
        tensor([[-1.,  1.]])
    """

    config_keys: ClassVar[list[str]] = ["dimension"]

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `sentence_embedding` `(rows, dimension)` normalised."""
        features["sentence_embedding"] = self.norm(features["sentence_embedding"])
        return features

    def get_embedding_dimension(self) -> int:
        """Dimension of the output."""
        return self.dimension


class Dropout(Module):
    """Dropout of pooled embeddings, in training only.

    Args:
        dropout: Share of values set to zero.

    Example:
        >>> encoder = SentenceTransformer(modules=[*model, Dropout(0.1)])
        >>> np.allclose(encoder.encode(pages), model.encode(pages))  # encode() drops nothing
        True
    """

    config_keys: ClassVar[list[str]] = ["dropout"]

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = dropout
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `sentence_embedding` `(rows, dim)` partly dropped."""
        features["sentence_embedding"] = self.dropout_layer(features["sentence_embedding"])
        return features
