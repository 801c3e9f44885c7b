"""Smaller embeddings: fewer dimensions, or 8 bits (`int8`, `uint8`) or 1 bit (`binary`, `ubinary`) a dimension."""

import logging
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omnitune.errors import InputError, ShapeError
from omnitune.ops.metrics import expect_numbers

logger = logging.getLogger(__name__)

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
Matrix = NDArray[Any]

Vectors = TypeVar("Vectors", Tensor, Matrix)

_FEW_EMBEDDINGS = 100
_STEPS = 255


def truncate_embeddings(embeddings: Vectors, truncate_dim: int | None) -> Vectors:
    """The first `truncate_dim` dimensions of `embeddings` `(..., dim)`, not rescaled; None keeps all.

    Raises:
        InputError: `embeddings` is no tensor and no array.

    Example:
        >>> truncate_embeddings(model.encode(pages), 128).shape
        (2, 128)
    """
    if not isinstance(embeddings, Tensor | np.ndarray):
        raise InputError(
            f"embeddings: expected a tensor or an array, got {type(embeddings).__name__}; make one with np.asarray"
        )
    return embeddings[..., :truncate_dim]


def quantize_embeddings(
    embeddings: Tensor | Matrix | list[Tensor] | list[Matrix],
    precision: Precision,
    ranges: Matrix | None = None,
    calibration_embeddings: Matrix | None = None,
) -> Matrix | list[Matrix]:
    """Embeddings at a lower precision.

    `int8` and `uint8` cut each dimension's range into 256 steps; values outside the range go to its ends. `binary` and
    `ubinary` keep one bit a dimension, set where the value is positive, packed eight to a byte.

    Args:
        embeddings: `(rows, dim)` or `(dim,)`, float; or a list of vectors `(dim,)`, of numbers, or of lists of numbers;
            or a list of token vectors `(tokens, dim)`, which share their ranges.
        precision: `"float32"`, `"int8"`, `"uint8"`, `"binary"` or `"ubinary"`.
        ranges: Smallest and largest value of each dimension `(2, dim)`, for 8 bits.
        calibration_embeddings: Embeddings `(n, dim)` whose smallest and largest values are the ranges, for 8 bits.
            Without either, the ranges are those of `embeddings`.

    Returns:
        `(rows, dim)` for float and 8 bits, `(rows, ceil(dim / 8))` for 1 bit; a list for a list of token vectors.

    Raises:
        InputError: `precision` is unknown; `embeddings` are already integers, or hold what is no number; or the ranges
            would have to be taken from a single embedding.
        ShapeError: `ranges` are not `(2, dim)`.

    Source:
        Agrees with `sentence_transformers.quantize_embeddings` 6.2.0.

    Example:
        >>> embeddings = model.encode(pages)
        >>> quantize_embeddings(embeddings, "ubinary").shape
        (2, 48)
        >>> quantize_embeddings(embeddings, "int8", calibration_embeddings=embeddings).dtype
        dtype('int8')
    """
    if isinstance(embeddings, list) and embeddings and not hasattr(embeddings[0], "ndim"):
        embeddings = np.asarray(embeddings, dtype=np.float32)
    ranges = None if ranges is None else _as_array(ranges)
    calibration_embeddings = None if calibration_embeddings is None else _as_array(calibration_embeddings)
    if isinstance(embeddings, list) and embeddings and embeddings[0].ndim == 2:
        matrices = [_as_array(matrix) for matrix in embeddings]
        if precision in ("int8", "uint8") and ranges is None:
            tokens = np.concatenate(matrices) if calibration_embeddings is None else calibration_embeddings
            ranges = _ranges(tokens, precision, calibrated=calibration_embeddings is not None) if len(tokens) else None
        return [_quantize(matrix, precision, ranges, calibration_embeddings) for matrix in matrices]
    if isinstance(embeddings, list):
        if not embeddings:
            return []
        return _quantize(np.stack([_as_array(row) for row in embeddings]), precision, ranges, calibration_embeddings)
    return _quantize(_as_array(embeddings), precision, ranges, calibration_embeddings)


def _as_array(embeddings: Tensor | Matrix) -> Matrix:
    """NumPy has no bfloat16, so tensors of fewer than 32 bits are widened."""
    if isinstance(embeddings, Tensor):
        detached = embeddings.detach().cpu()
        array: Matrix = (detached.float() if detached.is_floating_point() else detached).numpy()
        return array
    return np.asarray(embeddings)


def _quantize(
    embeddings: Matrix, precision: Precision, ranges: Matrix | None, calibration_embeddings: Matrix | None
) -> Matrix:
    if embeddings.dtype.kind in "iu":
        raise InputError(f"embeddings: expected floating-point numbers, got {embeddings.dtype}; pass them unquantized")
    expect_numbers(embeddings, "embeddings")
    if precision == "float32":
        return embeddings.astype(np.float32)
    if precision == "ubinary":
        return np.packbits(embeddings > 0, axis=-1)
    if precision == "binary":
        signed: Matrix = (np.packbits(embeddings > 0, axis=-1) ^ np.uint8(128)).view(np.int8)
        return signed
    if precision not in ("int8", "uint8"):
        raise InputError(f"precision: expected float32, int8, uint8, binary or ubinary, got {precision!r}")
    if embeddings.ndim == 2 and not len(embeddings):
        return embeddings.astype(precision)
    if ranges is None:
        calibrated = calibration_embeddings is not None
        if calibration_embeddings is not None:
            expect_numbers(calibration_embeddings, "calibration_embeddings")
        ranges = _ranges(calibration_embeddings if calibrated else embeddings, precision, calibrated=calibrated)
    if ranges.shape != (2, embeddings.shape[-1]):
        raise ShapeError(f"ranges: expected the shape (2, {embeddings.shape[-1]}), got {ranges.shape}")
    expect_numbers(ranges, "ranges")
    lowest, highest = ranges.astype(np.float32, copy=False)
    if (lowest > highest).any():
        raise InputError("ranges: expected the smallest value of each dimension first, then the largest, got another")
    step = (highest - lowest) / _STEPS
    steps = np.floor((embeddings - lowest) / np.where(step == 0, 1, step)).clip(0, _STEPS)
    quantized: Matrix = (steps - 128).astype(np.int8) if precision == "int8" else steps.astype(np.uint8)
    return quantized


def _ranges(embeddings: Matrix | None, precision: str, *, calibrated: bool) -> Matrix:
    """Smallest and largest value of each dimension `(2, dim)`."""
    assert embeddings is not None
    if not calibrated:
        if embeddings.ndim == 1 or len(embeddings) == 1:
            raise InputError(
                f"embeddings: expected at least two rows to take the ranges of {precision} from, got one; "
                "pass ranges or calibration_embeddings"
            )
        if len(embeddings) < _FEW_EMBEDDINGS:
            logger.warning(
                "The ranges of %s come from %d embeddings; ranges or calibration_embeddings from more are steadier",
                precision,
                len(embeddings),
            )
    return np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])
