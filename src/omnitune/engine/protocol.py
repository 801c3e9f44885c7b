"""The model as the engine sees it, so that any stack of modules can be run and the model can own its engine."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from omnitune.inputs.cost import CostRule
from omnitune.inputs.policy import MediaPolicy
from omnitune.types import Embeddings, Features, Modality


class HasModules(Protocol):
    """A model as the list of everything in it; `torch.nn.Module` is one."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules in it, itself first."""


class ReadsOutput(Protocol):
    """A kind of model: it knows which of the features is the output."""

    @property
    def output(self) -> str:
        """Key of the output among the features."""

    def read(self, features: Features) -> Embeddings:
        """The output among what the last module returned."""


class RunnableModel(Protocol):
    """A stack of modules that maps features to features, and says of raw items what they are and what they cost.

    Attributes:
        media_policy: Limits on media that items refer to.
    """

    media_policy: MediaPolicy

    @property
    def family(self) -> ReadsOutput:
        """Family, which reads its output."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def dtype(self) -> torch.dtype | None:
        """Dtype of the first weight, or None without weights."""

    @property
    def cost_rule(self) -> CostRule:
        """Rule for the cost of an item, without decoding it."""

    @property
    def input_module(self) -> nn.Module:
        """The module that makes the features."""

    @property
    def tokenizer(self) -> Any:
        """The input module's tokenizer."""

    @property
    def processor(self) -> Any:
        """The input module's processor."""

    def modality_of(self, item: Any, *, strings_are_text: bool = False) -> Modality:
        """Detect the modality of a raw item; raises where the model takes no such item."""

    def supports(self, modality: Modality) -> bool:
        """Tell whether items of `modality` can be encoded."""

    def preprocess_loaded(
        self, inputs: Sequence[Any], prompt: str | None, *, modality: Modality | None, **kwargs: Any
    ) -> Features:
        """Loaded items of one modality to features, on the host."""

    def get_model_kwargs(self) -> list[str]:
        """Names of extra arguments that the modules take in their forward."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Features after all modules."""

    def eval(self) -> Any:
        """Leave training mode."""

    def modules(self) -> Iterator[nn.Module]:
        """All modules in it, itself first."""

    def children(self) -> Iterator[nn.Module]:
        """Its modules, in order."""

    def parameters(self) -> Iterable[Tensor]:
        """Its weights."""

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Its weights by name."""
