"""Processed inputs, kept by what was processed and with what settings: an image is decoded and resized once.

They serve the replay, later epochs, evaluation and `encode`, where a tower trains and its outputs cannot be kept
(`tower_cache`). Nothing is approximate: a mini-batch is cut into rows, the rows must join to the same features again,
and pixel values are kept as bytes only where these give them back to the last bit (`inputs.pixels`).

Texts alone are not kept, as tokenizing them costs less than looking them up. Recordings are not either: what an
extractor makes of one depends on the others that it is padded with.
"""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from omnitune.engine.protocol import RunnableModel
from omnitune.engine.row_cache import RowCache, digest, packed, settings_of, unpacked
from omnitune.errors import InputError, ShapeError
from omnitune.inputs import pixels
from omnitune.inputs.store import Entry
from omnitune.modules.transformer import Transformer
from omnitune.ops.rows import cat_rows, slice_rows
from omnitune.types import Features, MiniBatch, Modality

logger = logging.getLogger(__name__)

MADE_TOGETHER = ("input_features", "input_values", "feature_attention_mask")
"""Features of a recording, which depend on what it is padded with."""

PADDING = "pixel_attention_mask"
"""Mask `(rows, images, height, width)` of processors that pad images with others."""


class InputCache(RowCache):
    """Processed inputs of one model.

    Args:
        model: Whose processor.
        turn: Held while the processor is called.
    """

    folder = "inputs"
    argument = "input_cache"

    def __init__(self, model: RunnableModel, turn: threading.Lock) -> None:
        super().__init__(model)
        self.turn = turn
        self._lock = threading.Lock()
        self._unfit: set[Modality] = set()
        self._sides: dict[str, Any] = {}
        self._vocabulary: tuple[Any, int, str] | None = None

    def state(self, modality: Modality) -> str | None:
        """Key of all that the inputs of this kind depend on besides the items; None if they are not kept."""
        module = next(self.model.children(), None)
        if self.store is None or modality == "text" or not isinstance(module, Transformer):
            return None
        return digest(settings_of(module), self._words(module), repr(self.model.media_policy), *_versions())

    def features(
        self, mini_batch: MiniBatch, arguments: dict[str, Any], make: Callable[[Sequence[int]], Features]
    ) -> Features:
        """Features of a mini-batch on the host, of which only the rows that are not kept are made.

        Args:
            mini_batch: From a plan.
            arguments: Of the preprocessing.
            make: Features of some of its rows, by their numbers.
        """
        every = range(len(mini_batch.items))
        if self.store is None or mini_batch.processing is None:
            return make(every)
        asked = (mini_batch.modality, mini_batch.prompt, mini_batch.role)
        keys = [digest(mini_batch.processing, repr((arguments, *asked)), key) for key in mini_batch.keys]
        side = self._padding_side(mini_batch.processing, arguments)
        rows = [self.store.get(key) for key in keys]
        missing = [i for i in every if rows[i] is None]
        with self._lock:
            self.hits += len(every) - len(missing)
            self.misses += len(missing)
        if missing:
            made = make(missing)
            cut = self._cut(made, mini_batch.modality, side)
            for i, kept in zip(missing, cut or (), strict=False):
                rows[i] = kept
                self.store.put(keys[i], kept)
            if len(missing) == len(every):
                return made
        known = [row for row in rows if row is not None]
        return self._joined(known, side) if len(known) == len(every) else make(every)

    def _padding_side(self, processing: str, arguments: dict[str, Any]) -> Any:
        """Find the side on which the processor pads, seen in two texts: some do not ask their tokenizer."""
        key = digest(processing, repr(arguments))
        if key not in self._sides:
            features: Features = {}
            if self.model.supports("text"):
                with self.turn:
                    features = self.model.preprocess_loaded(["a", "a b c d"], None, modality="text", **arguments)
            mask = features.get("attention_mask")
            self._sides[key] = None if mask is None else "right" if mask[0, 0] else "left"
        return self._sides[key]

    def _cut(self, features: Features, modality: Modality, side: Any) -> list[Entry] | None:
        """Every row as it is kept, or None where rows do not join to the same features."""
        if modality in self._unfit:
            return None
        count = len(features["input_ids"] if "input_ids" in features else features.get("pixel_values", ()))
        try:
            if any(key in features for key in MADE_TOGETHER):
                raise ShapeError("features: expected inputs made one by one, got a recording's")
            rows = [_without_images_padding(slice_rows(features, i, i + 1)) for i in range(count)]
            kept = [packed(pixels.in_bytes(row, self.model.processor)) for row in rows]
            if not _equal(pixels.in_floats(self._joined(kept, side)), features):
                raise ShapeError("features: expected rows that join to what they were cut from, got others")
        except (InputError, ShapeError) as error:
            self._unfit.add(modality)
            logger.warning("input_cache: inputs of the kind %r are not kept (%s)", modality, error)
            return None
        return kept

    def _joined(self, rows: Sequence[Entry], side: Any) -> Features:
        parts = [unpacked(row) for row in rows]
        scales = {tuple(part.get(key + pixels.SCALE) for key in pixels.KEYS) for part in parts}
        if len(scales) > 1 or any(PADDING in part for part in parts):
            parts = [pixels.in_floats(part) for part in parts]
        return cat_rows(parts, side, getattr(self.model.tokenizer, "pad_token_id", None))

    def _words(self, module: Transformer) -> str:
        """A digest of what the tokenizer does with a text."""
        tokenizer = module.tokenizer
        if tokenizer is None:
            return ""
        known = self._vocabulary
        if known is None or known[0] is not tokenizer or known[1] != len(tokenizer):
            words: Any = sorted(tokenizer.get_vocab().items())
            if isinstance(tokenizer, PreTrainedTokenizerFast):
                # How the last call padded and cut is state of the tokenizer, too, and no setting.
                words = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
            known = self._vocabulary = (tokenizer, len(tokenizer), digest(repr(words)))
        return known[2]


@cache
def _versions() -> tuple[str, ...]:
    """Versions of the libraries that decode and resize."""
    return tuple(version(name) for name in ("torch", "torchvision", "transformers", "pillow"))


def _without_images_padding(row: Features) -> Features:
    """One row, whose images are as many and as large as they were before others were put beside them."""
    mask = row.get(PADDING)
    if not isinstance(mask, Tensor) or not mask.any():
        return row
    used = [slice(0, int(mask.amax(dim=[d for d in (1, 2, 3) if d != axis]).nonzero()[:, 1].max()) + 1)
            for axis in (1, 2, 3)]  # fmt: skip
    images, height, width = used
    return {
        **row,
        PADDING: mask[:, images, height, width],
        "pixel_values": row["pixel_values"][:, images, :, height, width],
    }


def _equal(first: Features, second: Features) -> bool:
    if first.keys() != second.keys():
        return False
    for key, value in first.items():
        other = second[key]
        if isinstance(value, Tensor):
            if not isinstance(other, Tensor) or value.dtype != other.dtype or not torch.equal(value, other):
                return False
        elif value != other:
            return False
    return True
