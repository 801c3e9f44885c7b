"""Encoders of single inputs: the parts that dense, multi-vector and sparse ones share beyond any model's."""

from omnitune.model import pool as pools
from omnitune.model.base import Model
from omnitune.modules.pooling import Pooling


class Encoder(Model, pools.PoolMixin):
    """A model that turns one input into one output of a known size."""

    def get_embedding_dimension(self) -> int | None:
        """Dimensions of a vector that the model gives, or None where no module says."""
        known = (getattr(module, "get_embedding_dimension", lambda: None)() for module in reversed(list(self)))
        return next((dim for dim in known if dim is not None), None)

    @property
    def output_size(self) -> int | None:
        """The same, as every family names the size of its output."""
        return self.get_embedding_dimension()

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        """Count the prompt's tokens in the pooled embedding, or leave them out."""
        for module in self.modules():
            if isinstance(module, Pooling):
                module.include_prompt = include_prompt
