"""Earlier layers give good embeddings too, so that a model can be cut down to its first layers.

One forward gives the embeddings of every layer that a step asks for: hidden states of earlier layers go through the
modules behind the backbone like those of the last. The inner loss's strategy obtains them, so a cached loss keeps and
replays graphs as ever.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from omnitune.errors import InputError
from omnitune.losses.wrappers import MatryoshkaLoss, Wrapper, weighted_sum
from omnitune.ops.objectives import kl_divergence
from omnitune.types import Column, Embeddings, Encodes, Features, MiniBatch, Objective, Plan

LayerWeighting = Literal["uniform", "log", "linear"]


class AdaptiveLayerLoss(Wrapper):
    """Add a loss on earlier layers' embeddings, which should also resemble those of the last layer, to one on the last.

    Args:
        model: The encoder; its first module is a transformers backbone that gives token vectors.
        loss: Any loss of this library, cached ones included.
        n_layers_per_step: Draw so many earlier layers at random in every step; -1 uses all.
        last_layer_weight: Weight of the loss on the last layer.
        prior_layers_weight: Weight of the mean loss on the earlier layers drawn.
        kl_div_weight: Weight of each earlier layer's divergence from the last.
        kl_temperature: Temperature of that divergence; 0 leaves it out.
        layer_weighting: Weight of layer i, the embedding layer being 0: "uniform" 1, "log" 1 / (1 + ln(1 + i)),
            "linear" 1 / (1 + i), or a function of i.

    Raises:
        InputError: `loss` is not a `Loss`, the model has no layers to take, or `layer_weighting` is none of the above.

    Source:
        Li et al. 2024, eq. 4 to 7 (arXiv:2402.14776).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> loss = AdaptiveLayerLoss(model, losses.MultipleNegativesRankingLoss(model), n_layers_per_step=2)
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    paper = "li2024matryoshka2d"
    config_keys = [
        "loss",
        "n_layers_per_step",
        "last_layer_weight",
        "prior_layers_weight",
        "kl_div_weight",
        "kl_temperature",
        "layer_weighting",
    ]

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        n_layers_per_step: int = 1,
        last_layer_weight: float = 1.0,
        prior_layers_weight: float = 1.0,
        kl_div_weight: float = 1.0,
        kl_temperature: float = 0.3,
        layer_weighting: LayerWeighting | Callable[[int], float] = "uniform",
    ) -> None:
        super().__init__(model, loss)
        if not callable(layer_weighting) and layer_weighting not in get_args(LayerWeighting):
            raise InputError(
                f"layer_weighting: expected one of {get_args(LayerWeighting)} or a function, got {layer_weighting!r}"
            )
        config = getattr(next(model.children()), "config", None)
        layers = getattr(config, "num_hidden_layers", None)
        if layers is None:
            raise InputError(
                "model: expected one whose first module is a text backbone with layers (a Transformer), got "
                f"{type(next(model.children())).__name__}"
            )
        self.layers: int = layers
        self.n_layers_per_step = n_layers_per_step
        self.last_layer_weight = last_layer_weight
        self.prior_layers_weight = prior_layers_weight
        self.kl_div_weight = kl_div_weight
        self.kl_temperature = kl_temperature
        self.layer_weighting = layer_weighting
        self._drawn: Sequence[int] = ()

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """Embed as the inner loss asks; the model's are `(rows, 1 + layers drawn, dim)`, the last layer first."""
        self._drawn = range(self.layers)
        if 0 < self.n_layers_per_step < self.layers:
            self._drawn = random.sample(self._drawn, self.n_layers_per_step)
        return self.loss.embed(columns, _LayerEngine(engine, tuple(self.model.children())[1:], self._drawn))

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Weighted sum over layers of the inner objective and of the divergence from the last layer."""
        values = [self.loss.value_of(_at(embeddings, place), labels) for place in range(1 + len(self._drawn))]
        share = self.prior_layers_weight / max(len(self._drawn), 1)
        weights = [self.last_layer_weight, *(share * self.get_layer_weight(layer) for layer in self._drawn)]
        total = weighted_sum(values, weights)
        if self.kl_temperature <= 0 or not self._drawn:
            return total
        own = torch.cat([e.values for e in embeddings if _layered(e)]) / self.kl_temperature
        divergences = [kl_divergence(own[:, place], own[:, 0]) for place in range(1, own.shape[1])]
        divergence = torch.stack(divergences).sum() * (self.kl_temperature * self.kl_div_weight)
        return {**total, "layers": divergence} if isinstance(total, Mapping) else total + divergence

    def get_layer_weight(self, layer_idx: int) -> float:
        """Weight of the loss on layer `layer_idx`, the embedding layer being 0."""
        if not isinstance(self.layer_weighting, str):
            return self.layer_weighting(layer_idx)
        return {
            "uniform": 1.0,
            "log": 1.0 / (1.0 + math.log(1 + layer_idx)),
            "linear": 1.0 / (1 + layer_idx),
        }[self.layer_weighting]


class Matryoshka2dLoss(AdaptiveLayerLoss):
    """`AdaptiveLayerLoss` of a `MatryoshkaLoss`: fewer layers, fewer dimensions, or both.

    Args:
        model: The encoder.
        loss: Any loss on embeddings of any width.
        matryoshka_dims: As in `MatryoshkaLoss`.
        matryoshka_weights: As in `MatryoshkaLoss`.
        n_layers_per_step: As in `AdaptiveLayerLoss`, as are all that are not named here.
        n_dims_per_step: As in `MatryoshkaLoss`; drawn anew for every layer.

    Raises:
        InputError: As in `AdaptiveLayerLoss` and `MatryoshkaLoss`.

    Source:
        Li et al. 2024, eq. 4 to 7 (arXiv:2402.14776).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot is it?"], "page": pages})
        >>> loss = Matryoshka2dLoss(model, losses.MultipleNegativesRankingLoss(model), [384, 128, 64])
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        matryoshka_dims: list[int],
        matryoshka_weights: list[float | int] | None = None,
        n_layers_per_step: int = 1,
        n_dims_per_step: int = 1,
        last_layer_weight: float = 1.0,
        prior_layers_weight: float = 1.0,
        kl_div_weight: float = 1.0,
        kl_temperature: float = 0.3,
        layer_weighting: LayerWeighting | Callable[[int], float] = "uniform",
    ) -> None:
        super().__init__(
            model,
            MatryoshkaLoss(model, loss, matryoshka_dims, matryoshka_weights, n_dims_per_step),
            n_layers_per_step,
            last_layer_weight,
            prior_layers_weight,
            kl_div_weight,
            kl_temperature,
            layer_weighting,
        )

    def get_config_dict(self) -> dict[str, Any]:
        """Record the arguments for the model card."""
        return {**super().get_config_dict(), **self.loss.get_config_dict()}


@dataclass(frozen=True, slots=True)
class _LayerEngine:
    """An engine whose outputs are `(rows, 1 + layers, dim)`: the final embedding, then that of each earlier layer.

    Attributes:
        engine: The model's.
        behind: The modules that make an embedding of token vectors.
        layers: Numbers of hidden states, the embedding layer being 0.
    """

    engine: Any
    behind: Sequence[nn.Module]
    layers: Sequence[int]

    def plan(self, columns: Sequence[Column], **sizes: int | None) -> Plan:
        plan: Plan = self.engine.plan(columns, **sizes)
        return plan

    def in_step(self, mini_batches: Sequence[MiniBatch]) -> Sequence[tuple[int, MiniBatch]]:
        steps: Sequence[tuple[int, MiniBatch]] = self.engine.in_step(mini_batches)
        return steps

    def prepare(self, mini_batches: Sequence[MiniBatch]) -> Iterator[Features]:
        yield from self.engine.prepare(mini_batches)

    def run(self, features: Features) -> Embeddings:
        outputs: Features = self.engine.forward({**features, "output_hidden_states": True})
        embeddings = [outputs["sentence_embedding"]]
        for layer in self.layers:
            at_layer = {**outputs, "token_embeddings": outputs["all_layer_embeddings"][layer]}
            for module in self.behind:
                at_layer = module(at_layer)
            embeddings.append(at_layer["sentence_embedding"])
        return Embeddings(torch.stack(embeddings, dim=1))

    def parameters(self) -> Iterable[Tensor]:
        parameters: Iterable[Tensor] = self.engine.parameters()
        return parameters

    @property
    def sharded(self) -> bool:
        return bool(self.engine.sharded)

    @property
    def stochastic(self) -> bool:
        return bool(self.engine.stochastic)


def _layered(embeddings: Embeddings) -> bool:
    """Tell whether embeddings are the model's, with an axis of layers; another encoder's have none."""
    return embeddings.values.dim() == 3


def _at(embeddings: Sequence[Embeddings], place: int) -> list[Embeddings]:
    return [Embeddings(e.values[:, place]) if _layered(e) else e for e in embeddings]
