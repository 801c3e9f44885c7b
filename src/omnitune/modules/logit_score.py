"""A relevance score out of a language model's answer: how much likelier "yes" is than "no"."""

import logging
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.modules.base import Module
from omnitune.modules.tasks import LOGITS, SCORES
from omnitune.types import Features

logger = logging.getLogger(__name__)


class LogitScore(Module):
    """The logit of one token at the last position, or its difference from that of another one.

    Args:
        true_token_id: Token that says that a document is relevant, e.g. "yes".
        false_token_id: Token that says that it is not; None for a score that is the first one's logit.
        module_input_name: Feature that is read.

    Source:
        Nogueira et al. 2020, section 3 (arXiv:2003.06713): up to a sigmoid, their softmax over the two tokens.

    Example:
        >>> yes, no = 2, 0
        >>> logits = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 3.0]]])  # of a text of two tokens
        >>> LogitScore(yes, no)({"causal_logits": logits})["scores"]
        tensor([[2.]])
    """

    config_keys: ClassVar[list[str]] = ["true_token_id", "false_token_id", "module_input_name"]

    def __init__(self, true_token_id: int, false_token_id: int | None = None, module_input_name: str = LOGITS) -> None:
        super().__init__()
        self.true_token_id = true_token_id
        self.false_token_id = false_token_id
        self.module_input_name = module_input_name

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens whose logits are needed."""
        return (self.true_token_id,) if self.false_token_id is None else (self.true_token_id, self.false_token_id)

    def forward(self, features: Features) -> Features:  # type: ignore[override]  # no extra arguments
        """Features with `scores` `(rows, 1)`.

        `module_input_name` is `(rows, tokens, vocabulary)`, or `(rows, tokens, 2)` where the backbone's output layer
        was narrowed to `token_ids`; the last token of every row is a real one.
        """
        logits: Tensor = features[self.module_input_name][:, -1]
        ids = range(len(self.token_ids)) if logits.shape[-1] == len(self.token_ids) else self.token_ids
        chosen = [logits[:, i] for i in ids]
        features[SCORES] = (chosen[0] if len(chosen) == 1 else chosen[0] - chosen[1])[:, None]
        return features


class AnswerLayer(nn.Linear):
    """An output layer that computes the logits of some tokens only; its weights stay those of the whole vocabulary.

    For 150,000 tokens, the other logits are 99.99% of the layer's work and a matrix of rows times vocabulary. What the
    backbone does to its logits afterwards (scaling, capping) is done to each alone, so these are equal.
    """

    token_ids: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        """Logits `(..., len(token_ids))` of hidden states `(..., dim)`."""
        ids = list(self.token_ids)
        return F.linear(input, self.weight[ids], None if self.bias is None else self.bias[ids])


def narrow_output_layer(backbone: Any, token_ids: tuple[int, ...]) -> bool:
    """Let a causal backbone compute the logits of `token_ids` only, in this order.

    Args:
        backbone: A transformers model.
        token_ids: The tokens.

    Returns:
        Whether its output layer could be narrowed; one that is not a plain linear layer (quantised, or with an adapter
        on it) computes all logits still.
    """
    layer = backbone.get_output_embeddings()
    if type(layer) not in (nn.Linear, AnswerLayer):
        logger.warning("LogitScore: the output layer is a %s; it computes all logits.", type(layer).__name__)
        return False
    layer.__class__ = AnswerLayer
    layer.token_ids = token_ids
    return True
