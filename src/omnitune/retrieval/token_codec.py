"""Token vectors on disk: half precision, 8 bits, 4 or 2 bits beside a centroid, or one bit a dimension.

| codec | bytes a vector of 128 dimensions | what is kept |
|---|---|---|
| float32, float16 | 512, 256 | the vector |
| int8 | 130 | its numbers by its own largest one |
| residual4, residual2 | 66, 34 | the nearest centroid's number, and 4 or 2 bits for each dimension's distance to it |
| binary | 16 | signs |

Scores are computed with whole queries against decoded vectors, in float32. Source of the residual codec: Santhanam et
al. 2021 (arXiv:2112.01488), section 3.3; buckets are quantiles of a sample's residuals.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from omnitune.errors import InputError
from omnitune.retrieval.arrays import Array

Codec = Literal["float32", "float16", "int8", "residual4", "residual2", "binary"]
CODECS: tuple[Codec, ...] = ("float32", "float16", "int8", "residual4", "residual2", "binary")

SAMPLE = 1 << 16
"""Vectors that centroids are learned from."""

MOST_CENTROIDS = 2048
"""More make encoding slower (each vector meets every centroid) and, at 4 bits, change little."""

_ROWS_AT_ONCE = 1 << 15


class TokenCodec:
    """Storage of token vectors.

    Args:
        name: One of `CODECS`.
        dim: Length of a vector.
        tables: `centroids` `(centroids, dim)`, `cuts` and `weights` of a residual codec; learned by `fit`.

    Raises:
        InputError: There is no codec of that name.
    """

    def __init__(self, name: Codec, dim: int, tables: Mapping[str, Array] | None = None) -> None:
        if name not in CODECS:
            raise InputError(f"codec: expected one of {', '.join(CODECS)}, got {name!r}")
        self.name, self.dim, self.tables = name, dim, dict(tables or {})
        self.bits = int(name[-1]) if name.startswith("residual") else 0

    @property
    def ready(self) -> bool:
        """Tell whether nothing is left to be learned."""
        return not self.bits or bool(self.tables)

    @property
    def plain(self) -> bool:
        """Tell whether decoding, but for scales, is a change of the number format."""
        return self.name in ("float32", "float16", "int8")

    def fit(self, vectors: NDArray[np.float32], *, expected: int | None = None, seed: int = 0) -> None:
        """Learn the tables of a residual codec from a sample of the vectors; other codecs need none.

        Args:
            vectors: `(vectors, dim)`.
            expected: Vectors that there will be; sets the number of centroids. None takes those given.
            seed: Of the sample and the first centroids.
        """
        if not self.bits:
            return
        generator = np.random.default_rng(seed)
        chosen = np.sort(generator.permutation(len(vectors))[:SAMPLE])
        sample = torch.from_numpy(np.array(vectors[chosen], dtype=np.float32))
        wanted = 1 << int(np.log2(max(16.0, 16 * np.sqrt(expected or len(vectors)))))
        count = max(1, min(wanted, MOST_CENTROIDS, len(sample) // 8 or 1))
        # Lloyd's rounds over a sample; a centroid that nothing is near takes a random vector.
        centroids = sample[torch.from_numpy(generator.permutation(len(sample))[:count])].clone()
        for _ in range(6):
            code = _nearest(sample, centroids)
            sizes = torch.bincount(code, minlength=count).float()
            sums = torch.zeros_like(centroids).index_add_(0, code, sample)
            centroids = sums / sizes.clamp(min=1)[:, None]
            empty = (sizes == 0).nonzero().squeeze(1)
            centroids[empty] = sample[torch.from_numpy(generator.integers(0, len(sample), len(empty)))]
        residuals = (sample - centroids[_nearest(sample, centroids)]).flatten()
        residuals = residuals[torch.from_numpy(generator.permutation(len(residuals))[: 1 << 20])]
        levels = 1 << self.bits
        at = torch.arange(1, levels) / levels
        self.tables = {
            "centroids": centroids.numpy(),
            "cuts": torch.quantile(residuals, at).numpy(),
            "weights": torch.quantile(residuals, (torch.arange(levels) + 0.5) / levels).numpy(),
        }

    def encode(self, vectors: NDArray[np.float32]) -> dict[str, Array]:
        """The arrays that stand for vectors `(vectors, dim)`: `values`, and `scales` or `centroids` with them."""
        if self.name in ("float32", "float16"):
            return {"values": vectors.astype(self.name)}
        if self.name == "binary":
            return {"values": np.packbits(vectors >= 0, axis=1)}
        if self.name == "int8":
            scales = np.abs(vectors).max(axis=1, initial=0.0) / 127
            made = np.rint(vectors / np.maximum(scales, 1e-12)[:, None])
            return {"values": made.astype(np.int8), "scales": scales.astype(np.float16)}
        centroids, cuts = torch.from_numpy(self.tables["centroids"]), torch.from_numpy(self.tables["cuts"])
        codes, packed = [], []
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            block = torch.from_numpy(np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE], dtype=np.float32))
            code = _nearest(block, centroids)
            level = torch.bucketize(block - centroids[code], cuts).numpy().astype(np.uint8)
            codes.append(code.numpy().astype(np.uint16))
            per_byte = 8 // self.bits
            padded = np.pad(level, ((0, 0), (0, -level.shape[1] % per_byte))).reshape(len(level), -1, per_byte)
            shifts = (np.arange(per_byte) * self.bits).astype(np.uint8)
            packed.append(np.bitwise_or.reduce(padded << shifts, axis=2).astype(np.uint8))
        width = -(-self.dim * self.bits // 8)
        return {
            "values": np.concatenate(packed) if packed else np.zeros((0, width), np.uint8),
            "centroids": np.concatenate(codes) if codes else np.zeros(0, np.uint16),
        }

    def decode(self, arrays: Mapping[str, Array], *, scaled: bool = True) -> Tensor:
        """Vectors `(vectors, dim)` float32 of the arrays that `encode` made, or of rows of them.

        Args:
            arrays: Such as of `encode`.
            scaled: Whether vectors of "int8" are multiplied with their scales; else the reader does it.
        """
        values = arrays["values"]
        if self.name in ("float32", "float16"):
            return torch.from_numpy(values).float()
        if self.name == "binary":
            signs: Tensor = _BYTES_TO_SIGNS[torch.from_numpy(values).int()].flatten(1)[:, : self.dim]
            return signs / float(self.dim**0.5)
        if self.name == "int8":
            made = torch.from_numpy(values).float()
            return made * torch.from_numpy(arrays["scales"]).float()[:, None] if scaled else made
        weights = torch.from_numpy(self.tables["weights"])
        per_byte = 8 // self.bits
        shifts = torch.arange(per_byte) * self.bits
        table = weights[(torch.arange(256)[:, None] >> shifts) & ((1 << self.bits) - 1)]
        residuals = F.embedding(torch.from_numpy(values).int(), table).flatten(1)[:, : self.dim]
        centroids = torch.from_numpy(self.tables["centroids"])
        return F.normalize(F.embedding(torch.from_numpy(arrays["centroids"].astype(np.int32)), centroids) + residuals)


_BYTES_TO_SIGNS = ((torch.arange(256)[:, None] >> torch.arange(7, -1, -1)) & 1).float() * 2 - 1


def _nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Number of the centroid of least distance `(vectors,)`."""
    half = centroids.square().sum(dim=1) / 2
    parts = [(part @ centroids.T - half).argmax(dim=1) for part in torch.split(vectors, _ROWS_AT_ONCE // 4)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)
