"""Outputs of frozen towers, kept by what was encoded, with what settings, by which weights.

A tower is frozen when no weight of it trains and it has no active dropout. Its outputs then serve the replay, later
epochs, evaluation, mining and `encode`. Where those of a whole mini-batch are there, its images are not even decoded.

Nothing is approximate: outputs are kept in the precision in which they were computed, under a key that changes with the
content, the processor's settings, the tower's weights and autocast.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from omnitune.engine.fsdp_sync import is_sharded
from omnitune.engine.protocol import RunnableModel
from omnitune.engine.row_cache import DISK_BYTES, Place, RowCache, digest, packed, settings_of, unpacked
from omnitune.inputs.store import Entry
from omnitune.modules.towers import Tower, find_tower
from omnitune.ops.rows import cat_rows, slice_rows
from omnitune.types import Features, MiniBatch, Modality

logger = logging.getLogger(__name__)

KEPT = "kept_tower_rows"
"""Feature that holds what the cache knows of a mini-batch until its forward."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Keys of a mini-batch's rows, and their tower outputs if all are known."""

    modality: Modality
    keys: Sequence[str]
    rows: Sequence[Entry] | None


class TowerCache(RowCache):
    """Frozen-tower outputs of one model; nothing is kept of a model whose weights are sharded.

    Args:
        model: Whose towers.
        evaluating: Puts the model into evaluation mode for a block.
    """

    folder = "towers"
    argument = "tower_cache"

    def __init__(self, model: RunnableModel, evaluating: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(model)
        self.evaluating = evaluating
        self._towers: dict[Modality, Tower | None] = {}
        self._checks: dict[Modality, tuple[Any, str]] = {}

    def keep(self, place: Place = "auto", *, memory: int | None = None, disk: int = DISK_BYTES) -> None:
        """Keep outputs of frozen towers from now on, see `RowCache.keep`; towers are looked for anew."""
        self._towers, self._checks = {}, {}
        super().keep(place, memory=memory, disk=disk)
        if is_sharded(self.model):
            self.store = None

    def state(self, modality: Modality) -> str | None:
        """Key of all that the outputs for items of this kind depend on besides the items; None if they change.

        Weights are looked at every time: a pass over the tower's memory, small beside a forward.
        """
        if self.store is None or all(weight.requires_grad for weight in self.model.parameters()):
            return None
        if is_sharded(self.model):  # what some ranks remember, they would not compute with the others
            return None
        tower = self._tower(modality)
        if tower is None or not tower.frozen:
            return None
        device = tower.module.model.device.type
        autocast = (torch.is_autocast_enabled(device), str(torch.get_autocast_dtype(device)))
        model = tower.module.model
        backbone = (type(model).__qualname__, model.config._attn_implementation, str(model.dtype), device)
        versions = (torch.__version__, transformers.__version__)
        facts = (self._weights_key(modality, tower), backbone, autocast, versions, settings_of(tower.module))
        return digest(*map(repr, facts))

    def features(self, mini_batch: MiniBatch, arguments: dict[str, Any]) -> Features | None:
        """Features of a mini-batch all of whose outputs are kept, on the host; None if one is not."""
        kept = self._look_up(mini_batch, arguments)
        if kept is None or kept.rows is None:
            return None
        texts = self._rows(self._text_keys(mini_batch, arguments))
        if texts is None:
            return None
        side = getattr(getattr(self.model, "tokenizer", None), "padding_side", None)
        return {**cat_rows([unpacked(text) for text in texts], side), KEPT: kept}

    def noted(self, mini_batch: MiniBatch, features: Features, arguments: dict[str, Any]) -> Features:
        """Prepared features, with the keys that their tower's outputs are kept under."""
        kept = self._look_up(mini_batch, arguments)
        tower = self._towers.get(mini_batch.modality)
        if self.store is None or kept is None or tower is None or not tower.takes(features):
            return features
        rest = tower.without_input(features)
        for i, key in enumerate(self._text_keys(mini_batch, arguments)):
            row = rest if tower.embeds else slice_rows(rest, i, i + 1)
            self.store.put(key, packed(row))
        return {**features, KEPT: kept}

    def resolved(self, features: Features) -> Features:
        """Put the tower's outputs in place of its input: kept ones, or made and kept now."""
        # The tower may have been looked up when this mini-batch was prepared and filled by another one since, so rows
        # that were missing then are asked for once more before it runs.
        kept: _Kept | None = features.pop(KEPT, None)
        tower = None if kept is None else self._towers.get(kept.modality)
        if kept is None or tower is None or self.store is None:
            return features
        rows = kept.rows or self._rows(kept.keys)
        if rows is None:
            with torch.inference_mode(False), torch.no_grad():
                rows = tower.run(features)
            self.misses += len(rows)
            for key, row in zip(kept.keys, rows, strict=True):
                self.store.put(key, {name: tensor.cpu() for name, tensor in row.items()})
        else:
            self.hits += len(rows)
        return {**tower.without_input(features), **tower.join(rows, self.model.device)}

    def _tower(self, modality: Modality) -> Tower | None:
        if modality not in self._towers:
            with self.evaluating():
                self._towers[modality] = find_tower(self.model.input_module, modality)
        return self._towers[modality]

    def _look_up(self, mini_batch: MiniBatch, arguments: dict[str, Any]) -> _Kept | None:
        if mini_batch.tower is None or self.store is None:
            return None
        # The words around an image do not reach its tower; of a text they are the input.
        asked = repr((mini_batch.prompt, mini_batch.role)) if mini_batch.modality == "text" else ""
        keys = [digest(mini_batch.tower, repr(arguments), asked, key) for key in mini_batch.keys]
        return _Kept(mini_batch.modality, keys, self._rows(keys))

    def _rows(self, keys: Sequence[str]) -> list[Entry] | None:
        assert self.store is not None
        rows = []
        for key in keys:
            row = self.store.get(key)
            if row is None:
                return None
            rows.append(row)
        return rows

    @staticmethod
    def _text_keys(mini_batch: MiniBatch, arguments: dict[str, Any]) -> list[str]:
        facts = (mini_batch.tower, repr(arguments), repr((mini_batch.modality, mini_batch.prompt, mini_batch.role)))
        return [digest(*map(str, facts), key) for key in mini_batch.keys]

    def _weights_key(self, modality: Modality, tower: Tower) -> str:
        """A digest of the tower's weights, made anew when a checksum of their bits, or where they lie, has changed."""
        weights = list(tower.weights())
        sums = [_checksum(weight) for weight in weights]
        # Read at once: every read of a device's number waits for the device.
        read = torch.stack([each.to(sums[0].device) for each in sums]).tolist() if sums else []
        check = [(w.data_ptr(), w._version, number) for w, number in zip(weights, read, strict=True)]
        known = self._checks.get(modality)
        if known is None or known[0] != check:
            known = (check, digest(*(_bytes(w).cpu().numpy().data for w in weights)))
            self._checks[modality] = known
        return known[1]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _checksum(tensor: Tensor) -> Tensor:
    """Sum of the tensor's bits, read as integers as wide as they go: a scalar, int64."""
    flat = _bytes(tensor)
    wide = flat.view(torch.int64) if flat.numel() % 8 == 0 and flat.storage_offset() % 8 == 0 else flat
    return wide.sum(dtype=torch.int64)
