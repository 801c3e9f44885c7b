"""Pairs with a score: their cosine should be that score."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.losses.base import Loss
from omnitune.ops.objectives import in_one_format
from omnitune.types import Embeddings, Objective

_MSE = nn.MSELoss()
_IDENTITY = nn.Identity()


class CosineSimilarityLoss(Loss):
    """Regression of the cosine over two input columns and a score for each row.

    Args:
        model: The encoder.
        loss_fct: Compares cosines with scores: `(rows,), (rows,) -> scalar`.
        cos_score_transformation: Applied to the cosines `(rows,)` first.

    Source:
        Reimers and Gurevych 2019, section 3, the regression objective (arXiv:1908.10084).

    Example:
        >>> rows = Dataset.from_dict({"a": ["pump", "pump"], "b": ["a pump", "an oven"], "score": [0.9, 0.1]})
        >>> trainer = SentenceTransformerTrainer(model=model, train_dataset=rows, loss=CosineSimilarityLoss(model))
    """

    lists = "rows"
    config_keys = ["loss_fct", "cos_score_transformation"]

    def __init__(
        self, model: nn.Module, loss_fct: nn.Module = _MSE, cos_score_transformation: nn.Module = _IDENTITY
    ) -> None:
        super().__init__(model)
        self.loss_fct = loss_fct
        self.cos_score_transformation = cos_score_transformation

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Regression loss of two `(rows, dim)` columns and labels `(rows,)` on the scale of the cosine."""
        self._expect_columns(embeddings, "(input, input)", least=2, most=2)
        scores = self._expect_one_label_per_row(labels, "similarity score", len(embeddings[0]))
        cosines = F.cosine_similarity(embeddings[0].values, embeddings[1].values)
        loss: Tensor = self.loss_fct(*in_one_format(self.cos_score_transformation(cosines), scores.float()))
        return loss
