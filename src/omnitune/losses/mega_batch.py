"""Pairs against the hardest other document of a very large batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.losses.base import Loss
from omnitune.losses.strategies import Strategy
from omnitune.ops.similarity import cos_sim
from omnitune.types import Embeddings, Objective


class MegaBatchMarginLoss(Loss):
    """Margin loss over (anchor, positive): the positive close, the closest positive of another anchor far.

    Args:
        model: The encoder.
        positive_margin: Cosine that an anchor and its positive should reach.
        negative_margin: Cosine that an anchor and the closest other positive should not exceed.
        use_mini_batched_version: Cut mini-batches by the sizes below; False leaves it to their cost.
        mini_batch_size: Most items a mini-batch holds.
        mini_batch_num_tokens: Most padded tokens a mini-batch holds, in place of `mini_batch_size`.
        show_progress_bar: Whether to show the mini-batches of every step.

    Source:
        Wieting and Gimpel 2018, eq. 1 (aclanthology.org/P18-1042).

    Example:
        >>> rows = Dataset.from_dict({"text": ["pump", "oven"], "same": ["a pump", "an oven"]})
        >>> args = SentenceTransformerTrainingArguments("out", per_device_train_batch_size=500)
        >>> loss = MegaBatchMarginLoss(model, mini_batch_size=50)
        >>> trainer = SentenceTransformerTrainer(model=model, args=args, train_dataset=rows, loss=loss)
    """

    paper = "wieting2018paranmt"
    config_keys = ["positive_margin", "negative_margin", "mini_batch_size", "mini_batch_num_tokens"]

    def __init__(
        self,
        model: nn.Module,
        positive_margin: float = 0.8,
        negative_margin: float = 0.3,
        use_mini_batched_version: bool = True,
        mini_batch_size: int = 50,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
    ) -> None:
        size, tokens = (mini_batch_size, mini_batch_num_tokens) if use_mini_batched_version else (None, None)
        super().__init__(model, Strategy(size, tokens, show_progress_bar=show_progress_bar))
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Margin loss of anchors and positives `(rows, dim)`."""
        del labels
        self._expect_columns(embeddings, "(anchor, positive)", least=2, most=2)
        cosines = cos_sim(embeddings[0].values, embeddings[1].values)
        own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
        hardest = cosines.masked_fill(own, -torch.inf).max(dim=1).values
        losses = F.relu(self.positive_margin - cosines.diagonal()) + F.relu(hardest - self.negative_margin)
        return losses.mean()

    def negatives_per_query(self, batch_size: int, columns: int) -> int:
        """The positives of the other rows, of which the closest counts."""
        del columns
        return batch_size - 1
