"""The corpus store: embeddings on disk by content, so that nothing is encoded twice.

    folder/<made from>/<random name>.safetensors    one segment: keys, values, offsets, indices of some rows

`made from` is a digest of all that a row depends on besides its item (weights, settings, prompt, options); a key is a
digest of the item. A segment holds keys and rows in one file, is written whole under a name of its own, and never
changes. So processes need no lock: each appends segments that the others see when they next look, a segment that is
torn counts as absent, and rows cannot be paired with another's keys. (Two files a chunk, numbered by counting them,
returned 224 to 400 wrong rows of 400 when two processes ran at once.)
"""

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from omnitune import runtime
from omnitune.engine.row_cache import settings_of
from omnitune.errors import InputError, MediaError, ModalityError, ResourceError
from omnitune.inputs.fingerprint import fingerprint
from omnitune.model.base import Model
from omnitune.modules.transformer import Transformer
from omnitune.retrieval.arrays import read_arrays, take_ranges, write_arrays
from omnitune.retrieval.packed import Packed
from omnitune.types import Column

logger = logging.getLogger(__name__)

CHUNK = 4096
"""Items encoded and written at a time."""

Keys = NDArray[np.bytes_]
Encode = Callable[[list[Any]], Any]
"""Items to their embeddings, in any form that `Packed.of` takes."""


def identity(model: Model) -> str:
    """Hash what changes when embeddings do: all weights, the modules' settings, processors and vocabularies."""
    made = hashlib.blake2b(digest_size=16)
    _add_weights(made, model.state_dict().items())
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


def weights_identity(model: Model) -> str:
    """Hash the weights and the window alone: equal for a model and its saved copy, wherever that lies."""
    made = hashlib.blake2b(digest_size=8)
    _add_weights(made, sorted(model.state_dict().items()))
    made.update(repr(model.max_seq_length).encode())
    return made.hexdigest()


def _add_weights(made: "hashlib.blake2b", weights: Iterable[tuple[str, Any]]) -> None:
    for name, weight in weights:
        held = weight.detach().cpu().contiguous()
        made.update(f"{name} {held.dtype} {tuple(held.shape)}".encode())
        made.update(held.flatten().view(torch.uint8).numpy())


def content_keys(model: Any, items: Sequence[Any], *, queries: bool = False, first_row: int = 0) -> Keys:
    """Fingerprint every item `(items,)`: equal for equal content, and nothing is decoded.

    Args:
        model: Says what an item is.
        items: Raw items of any modality.
        queries: Whether strings are text whatever they look like.
        first_row: Number of the first item in its corpus, for errors.

    Raises:
        ModalityError: The model does not take an item; its row is named.
        MediaError: An item is not there; its row is named.
    """
    column = Column(name="inputs", items=items, rows=range(first_row, first_row + len(items)))
    keys: list[bytes] = []
    for row, item in enumerate(items):
        try:
            # A user's object that only encodes says nothing about its items: they are compared as they are.
            known = getattr(model, "modality_of", None)
            kind = known(item, strings_are_text=queries) if known else "text" if isinstance(item, str) else "message"
            keys.append(fingerprint(item, kind).encode())
        except MediaError as error:
            raise error.at(column.place(row)) from error
        except ModalityError as error:
            raise ModalityError(f"{column.place(row)}: {error}") from error
    return np.array(keys, dtype="S32")


def check_finite(rows: Packed, first_row: int = 0) -> None:
    """Refuse rows with NaN or infinity, before they are kept.

    Raises:
        InputError: Names the first such row.
    """
    wrong = rows.first_not_finite()
    if wrong is not None:
        raise InputError(
            f"row {first_row + wrong}: expected finite embeddings, got NaN or infinity; the model's weights are "
            "damaged, or its number format overflows on this item"
        )


class Store:
    """Rows of embeddings by the content of their items.

    Args:
        folder: Where segments lie; of one model, role, prompt and set of options. None keeps them in memory.
        dtype: Number format of the rows that are added: "float32", "float16", or None for that of the encoder.

    Example:
        >>> store = Store(cache / identity(model))
        >>> keys = content_keys(model, pages)
        >>> store.rows(pages, keys, model.encode_document).values.shape
        (811, 384)
        >>> store.rows(pages, keys, model.encode_document)  # nothing is encoded
    """

    def __init__(self, folder: Path | None, *, dtype: Any = "float32") -> None:
        self.folder, self.dtype = folder, dtype
        self.segments: dict[str, tuple[Keys, Packed]] = {}

    def rows(
        self, items: Sequence[Any], keys: Keys, encode: Encode, *, chunk_size: int = CHUNK, bar: Any = None
    ) -> Packed:
        """The embeddings of items, of which only those that are not in the store are encoded, each content once.

        Args:
            items: What to embed.
            keys: Their fingerprints (`content_keys`).
            encode: Items to embeddings.
            chunk_size: Items encoded and written at a time; what a stop can lose.
            bar: Progress bar that is told how many items are there.

        Returns:
            Rows in the order of `items`; arrays of their own, in memory.

        Raises:
            InputError: Embeddings are not finite, or not one a row; the row is named.
        """
        self.look()
        missing = np.flatnonzero(~np.isin(keys, [key for held, _ in self.segments.values() for key in held]))
        missing = np.sort(missing[np.unique(keys[missing], return_index=True)[1]])
        if bar is not None:
            bar.update(len(items) - len(missing))
        for start in range(0, len(missing), chunk_size):
            chunk = missing[start : start + chunk_size]
            encoded = Packed.of(encode([items[row] for row in chunk]), self.dtype)
            if len(encoded) != len(chunk):
                raise InputError(f"encode: expected one embedding for each of {len(chunk)} items, got {len(encoded)}")
            wrong = encoded.first_not_finite()
            if wrong is not None:
                check_finite(encoded, int(chunk[wrong]) - wrong)
            self._append(keys[chunk], encoded)
            if bar is not None:
                bar.update(len(chunk))
        return self._gathered(keys)

    def look(self) -> None:
        """Read which segments there are now; those of other processes are found."""
        if self.folder is None:
            return
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self.segments:
                continue
            found = read_arrays(path)
            if found is None:
                continue
            arrays, facts = found
            if not {"keys", "values"} <= arrays.keys() or "dim" not in facts:
                continue  # somebody else's
            held = Packed(
                values=arrays["values"],
                offsets=arrays.get("offsets"),
                indices=arrays.get("indices"),
                dim=int(facts["dim"]),
            )
            self.segments[path.name] = np.array(arrays["keys"]).view("S32").reshape(-1), held

    def _append(self, keys: Keys, rows: Packed) -> None:
        name = f"{uuid.uuid4().hex}.safetensors"
        if self.folder is not None:
            raw = np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), -1)
            try:
                write_arrays(self.folder / name, {"keys": raw, **rows.arrays()}, {"dim": str(rows.dim)})
            except (OSError, ResourceError) as error:
                # A cache is a convenience: where it cannot be written, the work goes on without it.
                logger.warning("%s: embeddings are not kept: %s", self.folder, error)
                self.folder = None
        self.segments[name] = keys, rows

    def _gathered(self, keys: Keys) -> Packed:
        """Rows by their keys, whichever segments they lie in."""
        segments = list(self.segments.values())
        held = np.concatenate([known for known, _ in segments]) if segments else np.zeros(0, "S32")
        if not len(keys):
            dim = segments[0][1].dim if segments else 0
            return Packed(values=np.zeros((0, dim), np.float32), dim=dim)
        order = np.argsort(held, kind="stable")
        found = order[np.searchsorted(held, keys, sorter=order)]
        bounds = np.cumsum([0, *(len(known) for known, _ in segments)])
        segment = np.searchsorted(bounds, found, side="right") - 1
        row = found - bounds[segment]
        first = segments[0][1]
        if first.offsets is None:
            values = np.empty((len(keys), first.dim), dtype=first.values.dtype)
            for number in np.unique(segment):
                here = np.flatnonzero(segment == number)
                values[here] = segments[number][1].values[row[here]]
            return Packed(values=values, dim=first.dim)
        lengths = np.empty(len(keys), dtype=np.int64)
        for number in np.unique(segment):
            here = segment == number
            lengths[here] = np.diff(_offsets(segments[number][1]))[row[here]]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        values = np.empty((int(starts[-1]), *first.values.shape[1:]), dtype=first.values.dtype)
        indices = None if first.indices is None else np.empty(len(values), dtype=first.indices.dtype)
        for number in np.unique(segment):
            here, part = np.flatnonzero(segment == number), segments[number][1]
            into = take_ranges(starts[:-1][here], lengths[here])
            out_of = take_ranges(_offsets(part)[:-1][row[here]], lengths[here])
            values[into] = part.values[out_of]
            if indices is not None and part.indices is not None:
                indices[into] = part.indices[out_of]
        return Packed(values=values, offsets=starts, indices=indices, dim=first.dim)


def _offsets(rows: Packed) -> NDArray[np.int64]:
    assert rows.offsets is not None, "a store holds rows of one layout"
    return rows.offsets


def store_of(folder: str | Path | None, *made_from: Any, dtype: Any = "float32") -> Store:
    """The store below `folder` for all that rows depend on besides their items.

    Args:
        folder: Of a cache; None keeps rows in memory.
        made_from: Values with a plain `repr`: `identity(model)`, role, prompt, options.
        dtype: See `Store`.
    """
    if folder is None:
        return Store(None, dtype=dtype)
    return Store(
        Path(folder) / hashlib.blake2b(repr((made_from, dtype)).encode(), digest_size=16).hexdigest(), dtype=dtype
    )


def encode_corpus(
    model: Any,
    items: Sequence[Any],
    folder: str | Path | None = None,
    *,
    queries: bool = False,
    label: str | None = None,
    unit: str = "item",
    chunk_size: int = CHUNK,
    dtype: Any = "float32",
    weights: str | None = None,
    keys: Keys | None = None,
    **options: Any,
) -> Packed:
    """Encode a corpus with any encoder, keeping its rows by content below a folder.

    Args:
        model: An encoder of this library.
        items: Raw items; slices of them are encoded one after another.
        folder: Of the store; None keeps nothing.
        queries: Whether to encode them as queries, not as documents.
        label: Label of a progress bar; None shows none.
        unit: What an item is called beside the bar.
        chunk_size: Items encoded and written at a time.
        dtype: Number format of the rows.
        weights: `identity(model)` where it is known already.
        keys: `content_keys` of the items where they are known already.
        **options: For `encode_query` or `encode_document`; all but `batch_size`, `pool` and `device` count as what
            rows depend on.

    Raises:
        InputError: Embeddings are not finite; the row is named.
        MediaError: An item cannot be read; its row is named.

    Example:
        >>> pages = encode_corpus(model, dataset.pages, RUN / "embeddings", label="Encoding pages", batch_size=16)
        >>> pages.values.shape
        (811, 384)
    """
    verb = model.encode_query if queries else model.encode_document
    made_from = sorted((k, repr(v)) for k, v in options.items() if k not in ("batch_size", "pool", "device"))
    if weights is None and folder is not None:
        weights = identity(model)
    names = ("prompts", "default_prompt_name", "truncate_dim")
    facts = (weights, queries, made_from, type(model).__name__, *(getattr(model, name, None) for name in names))
    limit = getattr(model, "max_active_dims", None)
    store = store_of(folder, *facts, *([] if limit is None else [limit]), dtype=dtype)
    keys = content_keys(model, items, queries=queries) if keys is None else keys

    def encode(some: list[Any]) -> Any:
        return verb(some, **{**options, "show_progress_bar": False})

    with runtime.progress_bar(label=label or "", total=len(items), show=label is not None and None, unit=unit) as bar:
        return store.rows(items, keys, encode, chunk_size=chunk_size, bar=bar)
