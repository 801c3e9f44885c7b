"""An index of a corpus together with how to search it by a model: a `DenseIndex` that is made anew as a whole.

The folder is one of segments, written down when the last of them is there, so one that was stopped is no index.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune import io, runtime
from omnitune.errors import InputError
from omnitune.evaluation.base import Encoder
from omnitune.retrieval.base import SCORES_AT_ONCE, Found
from omnitune.retrieval.dense_index import DenseIndex
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.segments import FACTS, FORMAT
from omnitune.retrieval.store import check_finite


class Index:
    """Embeddings of a corpus and what they stand for.

    Make one with `build_index` or `keep_index`, or open one with `open_index`.

    Args:
        rows: The vectors, each with the number of its document as `id`, and what it is as `entry`.

    Attributes:
        similarity: Name of the similarity that compares them with queries.
        key: What the index was made from, as its maker put it; two indexes with equal keys are equal.
    """

    def __init__(self, rows: DenseIndex) -> None:
        self._rows = rows
        self.similarity: str = rows.settings["similarity"]
        self.key = rows.made_by["key"]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """The vectors `(documents, dim)` float32, of unit length where the similarity is cosine; mapped, not read."""
        parts = [part.arrays["vectors"] for part in self._rows.segments.parts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def entries(self) -> list[Mapping[str, Any]]:
        """Facts of every document: identifier, document, page, path, ...; JSON values."""
        return [part.entry(row)["entry"] for part in self._rows.segments.parts for row in range(len(part))]

    def search(self, model: Encoder, queries: Sequence[Any], top_k: int = 10, **options: Any) -> list[list[Found]]:
        """The `top_k` documents of every query, best first, equal scores in index order.

        Args:
            model: The model that made the index.
            queries: What to look for.
            top_k: Documents a query.
            **options: For `model.encode_query`.

        Raises:
            InputError: A query says nothing, or the model's embeddings are of another dimension than the index's.
        """
        queries = list(queries)
        for place, query in enumerate(queries):
            said = query.get("text") if isinstance(query, dict) and query.keys() == {"text"} else query
            if isinstance(said, str) and not said.strip():
                raise InputError(f"queries: expected text to look for, got {said!r} as number {place}")
        encoded = model.encode_query(queries, convert_to_tensor=True, **options).float().cpu()
        dim = self._rows.segments.parts[0].arrays["vectors"].shape[1]
        if encoded.shape[-1] != dim:
            raise InputError(
                f"model: expected embeddings of {dim} dimensions as in the index, got {encoded.shape[-1]}; search with "
                "the model that made the index, or make it again"
            )
        some = max(1, SCORES_AT_ONCE // len(self))
        found = [one for block in encoded.split(some) for one in self._rows.search(block.numpy(), top_k)]
        return [
            [Found(rank=hit.rank, score=hit.score, row=hit.row, entry=hit.entry["entry"]) for hit in hits]
            for hits in found
        ]


def build_index(
    model: Encoder,
    items: Sequence[Any],
    entries: Iterable[Mapping[str, Any]],
    folder: str | Path,
    *,
    key: str = "",
    chunk_size: int = 1024,
    show_progress_bar: bool | None = None,
    **options: Any,
) -> Index:
    """Encode a corpus into an index on disk, a chunk at a time, so neither items nor embeddings have to fit in memory.

    Args:
        model: Encodes the documents.
        items: The documents; slices of them are taken one after another.
        entries: What each of them is, as JSON objects, in the same order.
        folder: Where to put the index; what is there is replaced.
        key: What the index depends on, for `open_index`.
        chunk_size: Documents encoded at a time.
        show_progress_bar: Whether to show progress; None shows it on a terminal.
        **options: For `model.encode_document`.

    Raises:
        InputError: There are no items, or not one entry for each.
        ResourceError: The disk is full.

    Example:
        >>> index = build_index(model, pages, [{"page": 1}, {"page": 2}], "index")
        >>> found = index.search(model, ["how hot is it"], top_k=1)[0][0]
        >>> found.rank, found.row, found.entry, round(found.score, 2)
        (1, 1, {'page': 2}, 0...)
    """

    def chunks() -> Iterator[NDArray[np.float32]]:
        with runtime.progress_bar(label="Indexing", total=len(items), show=show_progress_bar, unit="page") as bar:
            for start in range(0, len(items), chunk_size):
                chunk = items[start : start + chunk_size]
                made = model.encode_document(chunk, convert_to_numpy=True, show_progress_bar=False, **options)
                encoded = np.ascontiguousarray(made, dtype=np.float32)
                check_finite(Packed(values=encoded, dim=encoded.shape[-1]), start)
                yield encoded
                bar.update(len(encoded))

    return _filled(folder, chunks(), len(items), entries, str(model.similarity_fn_name), key)


def keep_index(
    embeddings: NDArray[np.float32],
    entries: Iterable[Mapping[str, Any]],
    folder: str | Path,
    *,
    similarity: str,
    key: str = "",
) -> Index:
    """An index on disk of embeddings that are there already.

    Args:
        embeddings: `(documents, dim)`.
        entries: What each of them is, as JSON objects, in the same order.
        folder: Where to put the index; what is there is replaced.
        similarity: Name of the similarity that compares them with queries.
        key: What the index depends on, for `open_index`.

    Raises:
        InputError: There are no embeddings, or not one entry for each.
        ResourceError: The disk is full.
    """
    return _filled(folder, [np.asarray(embeddings, dtype=np.float32)], len(embeddings), entries, similarity, key)


def _filled(
    folder: str | Path,
    blocks: Iterable[NDArray[np.float32]],
    total: int,
    entries: Iterable[Mapping[str, Any]],
    similarity: str,
    key: str,
) -> Index:
    folder, listed = Path(folder), list(entries)
    if not total or total != len(listed):
        raise InputError(f"entries: expected one for each of at least one item, got {len(listed)} for {total} items")
    folder.mkdir(parents=True, exist_ok=True)
    rows, start = DenseIndex(similarity=similarity, made_by={"key": key}), 0
    rows.segments.folder = folder
    with rows.segments.changing(anew=True):
        for block in blocks:
            stop = start + len(block)
            rows.add([{"id": str(row), "entry": listed[row]} for row in range(start, stop)], block)
            start = stop
    return open_index(folder)


def open_index(folder: str | Path) -> Index:
    """An index on disk; its embeddings are mapped, not read.

    Raises:
        InputError: The folder is not a whole index of this format.

    Example:
        >>> index = search.build_index(model, pages, [{"page": 1}, {"page": 2}], "index", key="edition 1")
        >>> open_index("index").key, len(open_index("index"))
        ('edition 1', 2)
    """
    rows = DenseIndex.open(folder)
    if "key" not in rows.made_by:
        raise InputError(f"folder: expected an index of `build_index` or `keep_index`, got {folder}; make it again")
    return Index(rows)


def is_index(folder: str | Path, key: str = "") -> bool:
    """Tell whether `folder` holds a whole index made from `key`; a torn `index.json` is none."""
    found = io.read_json_or_none(Path(folder) / FACTS)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return False
    settings = found.get("settings")
    made_by = settings.get("made_by") if isinstance(settings, dict) else None
    return isinstance(made_by, dict) and made_by.get("key") == key
