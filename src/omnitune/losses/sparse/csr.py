"""A sparse autoencoder's losses: it should give back the dense vector, and its latents should rank as the dense do."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import InputError
from omnitune.losses.sparse.ranking import SparseMultipleNegativesRankingLoss
from omnitune.losses.wrappers import Wrapper
from omnitune.types import DENSE_ALONE, Column, Embeddings, Encodes, Features, Objective


class CSRReconstructionLoss(nn.Module):
    """Errors of a sparse autoencoder's reconstructions of the dense vectors, in three parts.

    `reconstruction_loss_k` is the squared error of the k latents, `_4k` an eighth of that of four times as many, `_aux`
    that of the residual by latents that were not used for long, over its variance; each the mean over columns.

    It is a part of `CSRLoss`.

    Args:
        model: The encoder.
        beta: Weight of the third.

    Raises:
        InputError: It is used alone.

    Source:
        Wen et al. 2025 (arXiv:2503.01776).

    Example:
        >>> outputs = modules.SparseAutoEncoder(384, hidden_dim=512, k=32).codes(torch.ones(2, 384))
        >>> sorted(CSRReconstructionLoss(sparse).compute_loss_from_embeddings([outputs]))
        ['reconstruction_loss_4k', 'reconstruction_loss_aux', 'reconstruction_loss_k']
    """

    def __init__(self, model: nn.Module, beta: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.beta = beta

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Refuse to be used alone.

        Raises:
            InputError: Always.
        """
        del args, kwargs
        raise InputError("CSRReconstructionLoss: expected to be a part of CSRLoss, got used alone")

    def compute_loss_from_embeddings(self, outputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The three parts.

        Args:
            outputs: What `SparseAutoEncoder` gives with gradients, one dict a column.
        """
        parts = torch.stack([_errors(output) for output in outputs]).mean(dim=0)
        return {
            "reconstruction_loss_k": parts[0],
            "reconstruction_loss_4k": parts[1] / 8.0,
            "reconstruction_loss_aux": parts[2] * self.beta,
        }

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for the model card."""
        return {"beta": self.beta}


class CSRLoss(Wrapper):
    """Loss on a sparse autoencoder's latents, plus the errors with which they give back the dense vectors.

    The backbone's dense vectors are what a gradient cache keeps; the autoencoder works on the whole batch at once, so
    it counts the latents that were used once a step.

    Args:
        model: The encoder, with a `SparseAutoEncoder`.
        loss: The loss on latents; `SparseMultipleNegativesRankingLoss` by default.
        beta: Weight of the auxiliary part of `CSRReconstructionLoss`.
        gamma: Weight of `loss`.

    Raises:
        InputError: The model has no `SparseAutoEncoder`.

    Source:
        Wen et al. 2025 (arXiv:2503.01776).

    Example:
        >>> rows = Dataset.from_dict({"query": ["How often to grease?", "How hot?"], "page": pages})
        >>> coder = SparseEncoder(modules=[*model, modules.SparseAutoEncoder(384, hidden_dim=512, k=32)])
        >>> trainer = SparseEncoderTrainer(model=coder, train_dataset=rows, loss=CSRLoss(coder))
    """

    paper = "wen2025beyond"

    def __init__(self, model: nn.Module, loss: nn.Module | None = None, beta: float = 0.1, gamma: float = 1.0) -> None:
        super().__init__(model, loss if loss is not None else SparseMultipleNegativesRankingLoss(model))
        self.beta = beta
        self.gamma = gamma
        self.reconstruction_loss = CSRReconstructionLoss(model, beta)
        self._autoencoder()

    def _autoencoder(self) -> Any:
        """The model's autoencoder; asked for every time, because a trainer may hand over another model."""
        found = next((module for module in self.model.modules() if hasattr(module, "stats_last_nonzero")), None)
        if found is None:
            raise InputError(
                "model: expected one with a SparseAutoEncoder, got one without; SparseEncoder(path) adds it to a "
                "SentenceTransformer or a bare encoder"
            )
        return found

    def embed(self, columns: Sequence[Column | Features], engine: Encodes) -> list[Embeddings]:
        """The dense vectors that the autoencoder reads."""
        return self.loss.embed(columns, cast(Encodes, _DenseEngine(engine)))

    def objective(self, embeddings: Sequence[Embeddings], labels: Tensor | None) -> Objective:
        """Three parts of the reconstruction, and the weighted inner loss, `base_loss` unless it has parts itself."""
        sizes = [len(column) for column in embeddings]
        coded: dict[str, Any] = self._autoencoder().codes(torch.cat([column.values for column in embeddings]))
        cut = {key: torch.split(value, sizes) for key, value in coded.items() if value is not None}
        outputs: list[dict[str, Any]] = [
            {key: cut[key][i] if key in cut else None for key in coded} for i in range(len(sizes))
        ]
        parts = self.reconstruction_loss.compute_loss_from_embeddings(outputs)
        latents = [Embeddings(output["sentence_embedding"]) for output in outputs]
        value = self.loss.value_of(latents, labels)
        base = dict(value) if isinstance(value, Mapping) else {"base_loss": value}
        return {**parts, **{name: part * self.gamma for name, part in base.items()}}

    def get_config_dict(self) -> dict[str, Any]:
        """The constructor's arguments, for the model card."""
        return {"beta": self.beta, "gamma": self.gamma, "loss": type(self.loss).__name__}


class _DenseEngine:
    """The model's engine, stopping before the autoencoder."""

    def __init__(self, engine: Encodes) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, features: Features) -> Embeddings:
        """One forward: dense vectors."""
        return self._engine.run({**features, DENSE_ALONE: True})


def _errors(output: Mapping[str, Any]) -> Tensor:
    """Errors of the k latents, of four times as many, and of the auxiliary ones `(3,)`."""
    dense: Tensor = output["sentence_embedding_backbone"]
    of_k = F.mse_loss(dense, output["decoded_embedding_k"])
    of_4k = F.mse_loss(dense, output["decoded_embedding_4k"])
    auxiliary = output["decoded_embedding_aux"]
    if auxiliary is None:
        return torch.stack([of_k, of_4k, torch.zeros_like(of_k)])
    residual = dense - output["decoded_embedding_k_pre_bias"].detach()
    spread = F.mse_loss(residual.mean(dim=0).expand_as(residual), residual)
    # A batch of equal residuals has no variance to be measured by, whatever rounding says.
    alike = (spread == 0) | (residual == residual[:1]).all()
    return torch.stack([of_k, of_4k, F.mse_loss(auxiliary, residual) / torch.where(alike, 1.0, spread)])
