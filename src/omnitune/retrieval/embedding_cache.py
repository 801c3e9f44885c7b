"""Embeddings kept on disk by content: what was encoded once, by these weights and with this prompt, is read back.

    folder/<weights, settings and prompt>/00000000.npy    embeddings `(items, dim)` float32
                                          00000000.keys   their items' fingerprints, one after another

Every chunk is a pair of files, so a run that was killed goes on where it was, and a corpus that grew costs its new
items alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omnitune import io
from omnitune.engine.kept import settings_of
from omnitune.inputs.fingerprint import fingerprint
from omnitune.model.base import Model
from omnitune.modules.transformer import Transformer

CHUNK = 4096
"""Items encoded and written at a time."""

Matrix = NDArray[np.float32]
Keys = NDArray[np.bytes_]


def content_keys(model: Model, items: Sequence[Any], *, queries: bool = False) -> Keys:
    """Fingerprint of every item `(items,)`: equal for equal content, and nothing is decoded.

    Args:
        model: Says what an item is.
        items: Raw items of any modality.
        queries: Whether strings are text whatever they look like.
    """
    made = (fingerprint(item, model.modality_of(item, strings_are_text=queries)) for item in items)
    return np.array([key.encode() for key in made], dtype="S32")


def identity(model: Model) -> str:
    """What changes when embeddings do: hash of all weights, of the modules' settings, processors and vocabularies."""
    made = hashlib.blake2b(digest_size=16)
    for name, weight in model.state_dict().items():
        held = weight.detach().cpu().contiguous()
        made.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
        made.update(held.flatten().view(torch.uint8).numpy().tobytes())
    config = getattr(model.transformers_model, "config", None)
    made.update(f"{model!r} {model.max_seq_length} {'' if config is None else config.to_dict()}".encode())
    for module in model.modules():
        if isinstance(module, Transformer):
            made.update(settings_of(module).encode())
        vocabulary = getattr(getattr(module, "tokenizer", None), "get_vocab", None)
        if vocabulary is not None:
            words = vocabulary()
            made.update(repr(sorted(words.items()) if isinstance(words, dict) else list(words)).encode())
    return made.hexdigest()


def encode_cached(
    encode: Callable[[list[Any]], Any], items: Sequence[Any], keys: Keys, folder: Path, *, chunk_size: int = CHUNK
) -> Matrix:
    """Embeddings of the items, of which only those that `folder` does not hold are encoded.

    Args:
        encode: Items to embeddings `(items, dim)`.
        items: What to embed.
        keys: Their fingerprints (`content_keys`).
        folder: Of these weights, settings and prompt.
        chunk_size: Items encoded and written at a time.

    Returns:
        `(items, dim)` float32.

    Raises:
        ResourceError: The disk is full; what was encoded is kept.
    """
    missing = np.flatnonzero(~np.isin(keys, [*_known(folder)]))
    missing = missing[np.unique(keys[missing], return_index=True)[1]]
    number = len(list(folder.glob("*.npy")))
    for start in range(0, len(missing), chunk_size):
        chunk = np.sort(missing)[start : start + chunk_size]
        encoded = np.asarray(encode([items[row] for row in chunk]), dtype=np.float32)
        with io.writing(folder / f"{number:08}.npy") as path, path.open("wb") as file:
            np.save(file, encoded)
        with io.writing(folder / f"{number:08}.keys") as path:
            path.write_bytes(keys[chunk].tobytes())
        number += 1
    return _gathered(keys, folder)


def _shards(folder: Path) -> Iterator[tuple[Path, Keys]]:
    for path in sorted(folder.glob("*.keys")):
        yield path.with_suffix(".npy"), np.frombuffer(path.read_bytes(), dtype="S32")


def _known(folder: Path) -> Iterator[bytes]:
    for _, keys in _shards(folder):
        yield from keys


def _gathered(keys: Keys, folder: Path) -> Matrix:
    out: Matrix | None = None
    order = np.argsort(keys)
    for path, held in _shards(folder):
        stored = np.load(path, mmap_mode="r")
        out = np.empty((len(keys), stored.shape[1]), dtype=np.float32) if out is None else out
        first = np.searchsorted(keys, held, side="left", sorter=order)
        last = np.searchsorted(keys, held, side="right", sorter=order)
        repeats = last - first
        source = np.repeat(np.arange(len(held)), repeats)
        offset = np.arange(len(source)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        out[order[np.repeat(first, repeats) + offset]] = stored[source]
    assert out is not None, "items are never empty"
    return out
