"""Embeddings as they travel: cut, in any number format, as numbers or in base64."""

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnitune.ops.quantize import quantize_embeddings
from omnitune.serve.bodies import TYPES

REACH = 6.0
"""Standard deviations of a unit vector's numbers that the 256 steps of int8 cover to either side of 0. A fixed range
keeps vectors of different requests comparable; ranges taken from a request's own vectors would not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    """The embedding of an input.

    Attributes:
        values: `(dim,)`; token vectors `(tokens, dim)`; or the nonzero values of a sparse one.
        indices: Columns of a sparse embedding's values; None of another.
        tokens: Of the input, as the model counts them, before it cuts a long one.
        truncated: Whether it cut it.
    """

    values: Any
    indices: Any = None
    tokens: int
    truncated: bool


def reach_of(dim: int) -> float:
    """Largest number that int8 keeps of a unit vector of `dim` dimensions."""
    return min(1.0, REACH / math.sqrt(dim))


def cut(values: Any, dimensions: int | None) -> Any:
    """The first dimensions of a vector, of unit length again as OpenAI's are."""
    return values if dimensions is None else _unit(values[:dimensions])


def formatted(values: Any, kind: str) -> Any:
    """Vectors `(..., dim)` in a number format by its name in requests; 8 bits are steps of the unit vector's range."""
    precision = TYPES[kind]
    if precision == "float32":
        return np.ascontiguousarray(values, dtype="<f4")
    if precision in ("int8", "uint8"):
        reach = np.full(values.shape[-1], reach_of(values.shape[-1]), dtype=np.float32)
        return quantize_embeddings(_unit(values), precision, ranges=np.stack([-reach, reach]))
    return quantize_embeddings(values, precision)


def as_base64(values: Any) -> str:
    """The bytes of an array in base64; floats are little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _unit(values: Any) -> Any:
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
