"""Cut and join ready features by row.

A model's inputs are not all indexed by row: the token ids of a bag of words lie end to end, a batch's images may be
fewer or more than its rows, and some vision towers take the patches of all images in one long tensor. One table says
how each is indexed; what it does not name has one entry a row.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from omnitune.errors import InputError, ShapeError
from omnitune.types import Features

__all__ = ["ON_HOST", "cat_rows", "row_count", "slice_rows", "split_rows"]

PaddingSide: TypeAlias = Literal["left", "right"]

_INDEXED_BY: dict[str, tuple[str, ...]] = {
    "input_ids": ("bag",),
    "feature_attention_mask": ("audio",),
    "image_grid_thw": ("image",),
    "image_sizes": ("image",),
    "input_features": ("audio",),
    "pixel_values": ("image_patch", "image"),
    "video_grid_thw": ("video",),
    "video_second_per_grid": ("video",),
    "second_per_grid_ts": ("video",),
    "pixel_values_videos": ("video_patch", "video"),
}
"""What the first axis of a tensor counts: the first of these that its features have and whose total is its length."""

_COUNTS = {"image": "num_images_per_sample", "video": "num_videos_per_sample", "audio": "num_audios_per_sample"}
"""Keys that say how many images, videos, recordings each row has `(rows,)`; without them, one each."""

ON_HOST = frozenset(_COUNTS.values())
"""Features that only the host reads, to cut rows; to read one of a device is to wait for all that was started there."""

_TOKENS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "position_ids",
    "special_tokens_mask",
    "query_expansion_positions",
    "inputs_embeds",
    "bbox",
)
"""Tensors `(rows, tokens, ...)`, cut and padded with the attention mask."""

_PADDED_IMAGES = ("pixel_values", "pixel_attention_mask")
"""Tensors `(rows, images, ...)` of processors that pad images, with a mask that says so."""

_ROWS_BY = ("offsets", "attention_mask", "input_ids", *_COUNTS.values(), "image_grid_thw", "pixel_values")


def row_count(features: Features) -> int:
    """Number of items that `features` describe.

    Raises:
        InputError: No tensor tells.
    """
    for key in (*_ROWS_BY, *features):
        value = features.get(key)
        if isinstance(value, Tensor) and value.dim() > 0:
            return len(value)
    raise InputError(f"features: expected at least one tensor with one entry a row, got the keys {sorted(features)}")


def slice_rows(features: Features, start: int, stop: int) -> Features:
    """Rows `start` up to `stop`, without the token columns that are padding in all of them.

    Tensors are views. Media that none of these rows has are left out.

    Args:
        features: Ready inputs of a model, padded on either side.
        start: First row.
        stop: One past the last row; more than there are means all.

    Raises:
        ShapeError: Nothing says which rows some images, or some tensor's entries, belong to.
    """
    return _slice(features, _edges(features), start, min(stop, row_count(features)))


def split_rows(features: Features, size: int) -> list[Features]:
    """Consecutive `slice_rows` of at most `size` rows each.

    Raises:
        InputError: `size` is not positive.
    """
    if size < 1:
        raise InputError(f"size: expected at least 1 row, got {size}")
    edges, rows = _edges(features), row_count(features)
    return [_slice(features, edges, start, min(start + size, rows)) for start in range(0, rows, size)]


def cat_rows(
    parts: Sequence[Features], padding_side: PaddingSide | None = None, padding_id: int | None = None
) -> Features:
    """Rows of all `parts` in order, tokens padded to the longest.

    Args:
        parts: Ready inputs of one model, of one modality and task.
        padding_side: Where padding goes; None takes the side on which a part already has some, else the right.
        padding_id: Token id to pad with; None takes what a part is padded with, else 0.

    Raises:
        InputError: Parts differ in what they hold, or in a value that all rows share.
        ShapeError: Parts differ in a shape that cannot be padded.
    """
    if padding_side is None:
        masks = [part["attention_mask"] for part in parts if isinstance(part.get("attention_mask"), Tensor)]
        left = any(mask.dim() == 2 and mask.numel() and not mask[:, 0].all() for mask in masks)
        padding_side = "left" if left else "right"
    joined: Features = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part.get(key) for part in parts]
        present = [value for value in values if value is not None]
        if len(present) < len(parts) and not _of_media(key, parts):
            raise InputError(f"parts: expected all to hold {key!r}, got it in {len(present)} of {len(parts)}")
        joined[key] = _join(key, present, parts, padding_side, padding_id)
    return joined | _joined_counts(parts)


def _slice(features: Features, edges: Mapping[str, Sequence[int]], start: int, stop: int) -> Features:
    """Rows from `start` to `stop`, without columns that are padding in all of them."""
    taken: Features = {}
    for key, value in features.items():
        if not isinstance(value, Tensor) or value.dim() == 0:
            taken[key] = value
            continue
        axes = (*_INDEXED_BY.get(key, ()), "row")
        axis = next((one for one in axes if one in edges and edges[one][-1] == len(value)), None)
        if axis is None:
            count = len(edges["row"]) - 1
            raise ShapeError(f"{key}: expected one entry for each of the {count} rows, got {tuple(value.shape)}")
        begin, end = edges[axis][start], edges[axis][stop]
        if begin < end or axis in ("row", "bag"):
            taken[key] = value[begin:end]
    if "bag" in edges:
        taken["offsets"] = taken["offsets"] - edges["bag"][start]
    mask = taken.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2 or not mask.any():
        return taken
    added = taken.get("query_expansion_positions")  # no padding, though no token looks at them
    used = (mask.bool() if added is None else mask.bool() | added).any(dim=0).nonzero()
    first, last = int(used[0]), int(used[-1])
    return {key: value[:, first : last + 1] if _is_tokens(key, value, mask) else value for key, value in taken.items()}


def _edges(features: Features) -> dict[str, Sequence[int]]:
    """Find where each row begins on every axis that the features have, and where the last ends: `rows + 1` numbers."""
    rows = row_count(features)
    edges: dict[str, Sequence[int]] = {"row": range(rows + 1)}
    for medium, key in _COUNTS.items():
        grid = features.get(f"{medium}_grid_thw")
        if grid is None and key not in features:
            continue
        edges[medium] = _cumulative(_per_row(medium, features, rows))
        if grid is not None:
            patches = _cumulative(grid.prod(dim=1).tolist())
            edges[f"{medium}_patch"] = [patches[i] for i in edges[medium]]
    if "offsets" in features:
        edges["bag"] = [*features["offsets"].tolist(), len(features["input_ids"])]
    return edges


def _per_row(medium: str, features: Features, rows: int) -> list[int]:
    """Count the images, or videos, of each row.

    Raises:
        ShapeError: There is not one a row, and no counts are given.
    """
    counts = features.get(_COUNTS[medium])
    if counts is not None:
        numbers: list[int] = counts.tolist()
        return numbers
    grid = features.get(f"{medium}_grid_thw")
    found = 0 if grid is None else len(grid)
    if found not in (0, rows):
        raise ShapeError(
            f"{medium}_grid_thw: expected one {medium} for each of the {rows} rows, got {found}; "
            f"say how many each row has in {_COUNTS[medium]!r}"
        )
    return [found // rows] * rows if rows else []


def _cumulative(lengths: Sequence[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


def _is_tokens(key: str, value: Any, mask: Tensor) -> bool:
    return key in _TOKENS and isinstance(value, Tensor) and value.shape[:2] == mask.shape


def _of_media(key: str, parts: Sequence[Features]) -> bool:
    """Tell whether a part may lack `key` because its rows have no images, or videos."""
    axes = {*_INDEXED_BY.get(key, ())}
    return any(
        key == count or (medium in axes and any(f"{medium}_grid_thw" in part or count in part for part in parts))
        for medium, count in _COUNTS.items()
    )


def _joined_counts(parts: Sequence[Features]) -> Features:
    """Counts of media for the joined rows, where one a row would be wrong."""
    counts: Features = {}
    for medium, key in _COUNTS.items():
        grid = f"{medium}_grid_thw"
        uneven = any(grid in part for part in parts) and not all(grid in part for part in parts)
        if uneven or any(key in part for part in parts):
            per_row = [n for part in parts for n in _per_row(medium, part, row_count(part))]
            counts[key] = torch.tensor(per_row, dtype=torch.int64)
    return counts


def _join(key: str, values: Sequence[Any], parts: Sequence[Features], side: PaddingSide, padding_id: int | None) -> Any:
    first = values[0]
    if not isinstance(first, Tensor) or first.dim() == 0:
        if any(value != first for value in values[1:]):
            raise InputError(f"{key}: expected the same in all parts, got {', '.join(map(repr, values))}")
        return first
    if key == "offsets":
        starts = _cumulative([len(part["input_ids"]) for part in parts])
        return torch.cat([value + start for value, start in zip(values, starts, strict=False)])
    if len({value.shape[1:] for value in values}) == 1:
        return torch.cat(list(values))
    if all(
        "attention_mask" in p and _is_tokens(key, v, p["attention_mask"]) for p, v in zip(parts, values, strict=False)
    ):
        if padding_id is None:  # what some part is padded with; 0 where none is, as the mask hides it
            hidden = (part["input_ids"][part["attention_mask"] == 0] for part in parts)
            padding_id = next((int(ids[0]) for ids in hidden if len(ids)), 0)
        width, padded = max(value.shape[1] for value in values), []
        for value in values:
            missing = width - value.shape[1]
            after = (missing, 0) if side == "left" else (0, missing)
            padding = padding_id if key == "input_ids" else 0
            padded.append(F.pad(value, (*(0, 0) * (value.dim() - 2), *after), value=padding))
        return torch.cat(padded)
    if key in _PADDED_IMAGES and "pixel_attention_mask" in parts[0]:
        sizes, padded = [max(value.shape[axis] for value in values) for axis in range(1, first.dim())], []
        for value in values:
            after_each = [(0, size - have) for size, have in zip(sizes, value.shape[1:], strict=True)]
            padded.append(F.pad(value, [number for pair in reversed(after_each) for number in pair]))
        return torch.cat(padded)
    shapes = ", ".join(str(tuple(value.shape)) for value in values)
    raise ShapeError(f"{key}: expected shapes that differ in rows, or in tokens with an attention_mask, got {shapes}")
