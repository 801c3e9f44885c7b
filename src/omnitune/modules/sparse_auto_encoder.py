"""A sparse autoencoder: a dense vector as a few of many latents (CSR)."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnitune.errors import CheckpointError
from omnitune.modules import files
from omnitune.modules.base import Module
from omnitune.types import DENSE_ALONE, Features

USED = 1e-5
"""Value above which a latent counts as used."""

_TIED = "decoder.linear.weight"
"""Another name of `encoder.weight`, under which some checkpoints keep it."""


class SparseAutoEncoder(Module):
    """Keeps the `k` largest of `hidden_dim` latents of a dense vector, as far as they are above zero.

    Args:
        input_dim: Dimensions of the dense vector.
        hidden_dim: Latents.
        k: Latents that are kept; all where there are fewer.
        k_aux: Latents that were not used for long and reconstruct the residual in training; 0 for none.
        normalize: Scale the dense vector to mean 0 and deviation 1 first, and reconstructions back.
        dead_threshold: Steps of training without use after which a latent counts as dead.

    Source:
        Wen et al. 2025 (arXiv:2503.01776); the auxiliary latents are of Gao et al. 2024 (arXiv:2406.04093).

    Example:
        >>> csr = SparseEncoder(modules=[*model, SparseAutoEncoder(384, hidden_dim=1536, k=32)])
        >>> embeddings = csr.encode(pages)
        >>> embeddings.shape, csr.sparsity(embeddings)["active_dims"] <= 32
        (torch.Size([2, 1536]), True)
    """

    config_keys: ClassVar[list[str]] = ["input_dim", "hidden_dim", "k", "k_aux", "normalize", "dead_threshold"]
    forward_kwargs: set[str] = {"max_active_dims"}  # noqa: RUF012  # as in the base class

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 512,
        k: int = 8,
        k_aux: int = 512,
        normalize: bool = False,
        dead_threshold: int = 30,
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim
        self.k = k
        self.k_aux = k_aux
        self.normalize = normalize
        self.dead_threshold = dead_threshold
        self.pre_bias = nn.Parameter(torch.zeros(input_dim))
        self.encoder = nn.Linear(input_dim, hidden_dim, bias=False)
        self.latent_bias = nn.Parameter(torch.zeros(hidden_dim))
        self.stats_last_nonzero: Tensor
        self.register_buffer("stats_last_nonzero", torch.zeros(hidden_dim, dtype=torch.int64))

    def forward(self, features: Features, max_active_dims: int | None = None) -> Features:  # type: ignore[override]
        """Features with the latents as `sentence_embedding` `(rows, hidden_dim)`.

        With gradients they also have what `CSRReconstructionLoss` compares; see `codes`.

        Args:
            features: `sentence_embedding` `(rows, input_dim)`.
            max_active_dims: Takes the place of `k`.
        """
        if features.get(DENSE_ALONE):
            return features
        dense: Tensor = features["sentence_embedding"]
        if torch.is_grad_enabled():
            return {**features, **self.codes(dense, max_active_dims)}
        scaled, _, _ = self._scaled(dense)
        features["sentence_embedding"] = self._top(self._before(scaled), max_active_dims or self.k)
        return features

    def codes(self, dense: Tensor, k: int | None = None) -> dict[str, Any]:
        """Latents and reconstructions of dense vectors; in training, a step is counted for every latent.

        Args:
            dense: `(rows, input_dim)`.
            k: Takes the place of the module's own.

        Returns:
            `sentence_embedding` (k latents), `sentence_embedding_backbone` (`dense`), `sentence_embedding_encoded`
            (before the choice), `sentence_embedding_encoded_4k`, `auxiliary_embedding`, and the reconstructions
            `decoded_embedding_k`, `_4k`, `_aux` (None without `k_aux`) and `_k_pre_bias`.
        """
        count = k or self.k
        scaled, mean, deviation = self._scaled(dense)
        before = self._before(scaled)
        dead = self.stats_last_nonzero > self.dead_threshold
        latents, wide = self._top(before, count), self._top(before, 4 * count)
        if self.training and torch.is_grad_enabled():
            used = (latents.detach() > USED).any(dim=0)
            self.stats_last_nonzero = (self.stats_last_nonzero + 1).masked_fill(used, 1)
        auxiliary = self._top(before * dead, self.k_aux) if self.k_aux else None
        of_latents, of_wide = (self.decode(values) * deviation + mean for values in (latents, wide))
        return {
            "sentence_embedding": latents,
            "sentence_embedding_backbone": dense,
            "sentence_embedding_encoded": before,
            "sentence_embedding_encoded_4k": wide,
            "auxiliary_embedding": auxiliary,
            "decoded_embedding_k": of_latents,
            "decoded_embedding_4k": of_wide,
            "decoded_embedding_aux": None if auxiliary is None else self.decode(auxiliary) * deviation,
            "decoded_embedding_k_pre_bias": of_latents - self.pre_bias * deviation,
        }

    def decode(self, latents: Tensor) -> Tensor:
        """Dense vectors `(rows, input_dim)` of latents `(rows, hidden_dim)`, on the scale that the encoder reads."""
        return latents @ self.encoder.weight + self.pre_bias

    def _scaled(self, dense: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """Vectors as the encoder reads them, and the means and deviations to scale them back by."""
        if not self.normalize:
            return dense, 0.0, 1.0
        mean = dense.mean(dim=-1, keepdim=True)
        centred = dense - mean
        deviation = centred.std(dim=-1, keepdim=True)
        return centred / (deviation + 1e-5), mean, deviation

    def _before(self, scaled: Tensor) -> Tensor:
        return F.linear(scaled - self.pre_bias, self.encoder.weight, self.latent_bias)

    def _top(self, before: Tensor, count: int) -> Tensor:
        """The `count` largest of every row, as far as they are above zero, and zeros."""
        values, places = before.topk(min(count, before.shape[-1]), dim=-1)
        return torch.zeros_like(before).scatter(-1, places, values).relu()

    def get_embedding_dimension(self) -> int:
        """Number of latents, most of them zero."""
        return self.hidden_dim

    def read_weights(self, folder: Path) -> None:
        """Read the weights, the encoder's under either of its names.

        Raises:
            CheckpointError: They are missing, or do not fit.
        """
        tensors = files.read_tensors(folder)
        tied = tensors.pop(_TIED, None)
        if tied is not None:
            tensors.setdefault("encoder.weight", tied)
        own = self.state_dict()
        wrong = sorted(
            name
            for name in own.keys() | tensors.keys()
            if name not in own or name not in tensors or own[name].shape != tensors[name].shape
        )
        if wrong:
            raise CheckpointError(f"{folder}: expected the weights of a SparseAutoEncoder, got others in {wrong}")
        self.load_state_dict(tensors)
