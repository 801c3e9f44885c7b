"""Token vectors out of those of a backbone's layers: their mean, with a learned weight a layer."""

import logging
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from omnitune.errors import ShapeError
from omnitune.modules.base import Module
from omnitune.renames import renamed
from omnitune.types import Features

logger = logging.getLogger(__name__)


class WeightedLayerPooling(Module):
    """Weighted mean of `all_layer_embeddings`.

    The backbone gives them where it is loaded with `config_kwargs={"output_hidden_states": True}`; without them, token
    vectors stay as they are, with a warning.

    Args:
        embedding_dimension: Dimension of a token's vector.
        num_hidden_layers: Layers of the backbone.
        layer_start: First layer that counts; 0 is the embedding layer.
        layer_weights: First weights `(num_hidden_layers + 1 - layer_start,)`; None weighs all the same.

    Raises:
        ShapeError: There is not one weight a layer.

    Example:
        >>> reranker.save_pretrained("bert")
        >>> backbone = modules.Transformer("bert", config_kwargs={"output_hidden_states": True})
        >>> dim, layers = backbone.get_embedding_dimension(), backbone.config.num_hidden_layers
        >>> mean = WeightedLayerPooling(dim, num_hidden_layers=layers, layer_start=1)
        >>> SentenceTransformer(modules=[backbone, mean, modules.Pooling(dim)]).encode(pages).shape == (2, dim)
        True
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "layer_start", "num_hidden_layers"]
    config_key_renames: ClassVar[dict[str, str]] = {"word_embedding_dimension": "embedding_dimension"}

    @renamed(word_embedding_dimension="embedding_dimension")
    def __init__(
        self,
        embedding_dimension: int,
        num_hidden_layers: int = 12,
        layer_start: int = 4,
        layer_weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        layers = num_hidden_layers + 1 - layer_start
        weights = torch.ones(max(layers, 0)) if layer_weights is None else torch.as_tensor(layer_weights)
        if layers < 1 or weights.shape != (layers,):
            raise ShapeError(
                f"layer_weights: expected one for each of the {layers} layers from {layer_start} to "
                f"{num_hidden_layers}, got {tuple(weights.shape)}"
            )
        self.embedding_dimension = embedding_dimension
        self.layer_start = layer_start
        self.num_hidden_layers = num_hidden_layers
        self.layer_weights = nn.Parameter(weights.to(torch.float32))
        self._warned = False

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `token_embeddings` `(rows, tokens, dim)`.

        Args:
            features: `all_layer_embeddings`, `(rows, tokens, dim)` a layer, the embedding layer's first.

        Raises:
            ShapeError: The backbone has another number of layers.
        """
        layers: Sequence[Tensor] | None = features.get("all_layer_embeddings")
        if layers is None:
            if not self._warned:
                logger.warning(
                    "WeightedLayerPooling: the layers' vectors are missing, so it does nothing; load the Transformer "
                    'with config_kwargs={"output_hidden_states": True}.'
                )
            self._warned = True
            return features
        if len(layers) != self.num_hidden_layers + 1:
            raise ShapeError(
                f"num_hidden_layers: expected the backbone's {len(layers) - 1}, got {self.num_hidden_layers}"
            )
        # One layer after another: stacked, all of them would be copied twice.
        weights = self.layer_weights[:, None, None, None]
        total = weights[0] * layers[self.layer_start]
        for weight, layer in zip(weights[1:], layers[self.layer_start + 1 :], strict=True):
            total = total + weight * layer
        features["token_embeddings"] = total / self.layer_weights.sum()
        return features

    def get_embedding_dimension(self) -> int:
        """Dimension of a token's vector."""
        return self.embedding_dimension
