"""An index of a corpus: its embeddings on disk beside what each of them stands for.

A folder holds `embeddings.npy` `(documents, dim)` float32, which is mapped and not read when the index is opened;
`entries.jsonl`, one object a document; and `index.json`, what the rest depends on. `index.json` is written last, so a
folder without it was interrupted and is not an index.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from omnitune import io, runtime
from omnitune.errors import InputError
from omnitune.evaluation.base import Encoder
from omnitune.evaluation.ranking import chunks, retrieve
from omnitune.ops.similarity import SimilarityFunction
from omnitune.retrieval.base import Found
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.store import check_finite

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Embeddings of a corpus and what they stand for.

    Attributes:
        embeddings: `(documents, dim)` float32.
        entries: What each document is: identifier, document, page, path, ...; JSON values.
        similarity: Name of the similarity that compares them with queries.
        key: What the index was made from, as its maker put it; two indexes with equal keys are equal.
    """

    embeddings: NDArray[np.float32]
    entries: Sequence[Mapping[str, Any]]
    similarity: str
    key: str = ""

    def __len__(self) -> int:
        return len(self.entries)

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
        if encoded.shape[-1] != self.embeddings.shape[-1]:
            raise InputError(
                f"model: expected embeddings of {self.embeddings.shape[-1]} dimensions as in the index, "
                f"got {encoded.shape[-1]}; search with the model that made the index, or make it again"
            )
        score = SimilarityFunction.to_similarity_fn(self.similarity)
        parts = (torch.from_numpy(np.array(part)) for part in chunks(self.embeddings, 1 << 18))
        hits = retrieve(encoded, parts, score, top_k)
        return [
            [
                Found(rank=rank, score=value, row=row, entry=self.entries[row])
                for rank, (row, value) in enumerate(zip(rows, values, strict=True), start=1)
            ]
            for rows, values in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
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
    """
    folder, listed = Path(folder), _checked(entries, len(items))
    with (
        _fresh(folder) as temporary,
        temporary.open("wb") as file,
        runtime.progress_bar(label="Indexing", total=len(items), show=show_progress_bar, unit="page") as bar,
    ):
        for start in range(0, len(items), chunk_size):
            chunk = items[start : start + chunk_size]
            made = model.encode_document(chunk, convert_to_numpy=True, show_progress_bar=False, **options)
            encoded = np.ascontiguousarray(made, dtype=np.float32)
            check_finite(Packed(values=encoded, dim=encoded.shape[-1]), start)
            if not start:
                shape = (len(items), encoded.shape[-1])
                npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            # Plain writes: through a memory map a full disk would end the process with a bus error.
            file.write(encoded.data)
            bar.update(len(encoded))
    return _completed(folder, listed, str(model.similarity_fn_name), key)


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
    folder, listed = Path(folder), _checked(entries, len(embeddings))
    with _fresh(folder) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(embeddings, dtype=np.float32))
    return _completed(folder, listed, similarity, key)


def _checked(entries: Iterable[Mapping[str, Any]], items: int) -> list[Mapping[str, Any]]:
    listed = list(entries)
    if not items or items != len(listed):
        raise InputError(f"entries: expected one for each of at least one item, got {len(listed)} for {items} items")
    return listed


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """Folder for the embeddings of a new index; until it is complete there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    with io.writing(folder / "embeddings.npy") as temporary:
        yield temporary


def _completed(folder: Path, entries: Sequence[Mapping[str, Any]], similarity: str, key: str) -> Index:
    io.write_jsonl(folder / "entries.jsonl", entries)
    about = {"format": _FORMAT, "similarity": similarity, "key": key, "documents": len(entries)}
    io.write_json(folder / "index.json", about)
    return open_index(folder)


def open_index(folder: str | Path) -> Index:
    """An index on disk; its embeddings are mapped, not read.

    Raises:
        InputError: The folder is not a complete index of this format.
    """
    folder = Path(folder)
    about = io.read_json_or_none(folder / "index.json")
    if not isinstance(about, dict):
        raise InputError(f"folder: expected an index, got {folder} without an index.json; make it with build_index")
    if about["format"] != _FORMAT:
        raise InputError(
            f"folder: expected an index of format {_FORMAT}, got {about['format']} in {folder}; make it again"
        )
    return Index(
        embeddings=np.load(folder / "embeddings.npy", mmap_mode="r"),
        entries=list(io.read_jsonl(folder / "entries.jsonl")),
        similarity=about["similarity"],
        key=about["key"],
    )


def is_index(folder: str | Path, key: str = "") -> bool:
    """Tell whether `folder` holds a complete index made from `key`; a torn `index.json` is none."""
    found = io.read_json_or_none(Path(folder) / "index.json")
    return isinstance(found, dict) and found.get("format") == _FORMAT and found.get("key") == key
