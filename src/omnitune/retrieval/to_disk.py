"""Encoding a corpus into a file: more vectors than fit in memory, and a run that was stopped goes on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.lib.format import open_memmap

from omnitune import folders, runtime
from omnitune.errors import InputError
from omnitune.model.dense import SentenceTransformer
from omnitune.retrieval.ordered import OrderedRows, row_keys, runs
from omnitune.retrieval.packed import Packed
from omnitune.retrieval.store import check_finite, content_keys, identity

ROWS_AT_ONCE = 8_192
"""Rows that are encoded, written and noted as done together; what a stop can lose."""

Vectors: TypeAlias = "np.memmap[Any, np.dtype[Any]]"

Role = Literal["document", "query"]


def encode_to_disk(
    model: SentenceTransformer,
    inputs: Sequence[Any],
    path: str | Path,
    *,
    role: Role = "document",
    rows_at_once: int = ROWS_AT_ONCE,
    show_progress_bar: bool | None = None,
    **options: Any,
) -> Vectors:
    """Embed a corpus into a `.npy` file, going on where an earlier call was stopped.

    A row is kept from an earlier call when its item, the weights, the role and the options are the same; every other
    row is encoded, wherever it lies.

    Args:
        model: A dense encoder.
        inputs: Anything with a length whose items can be asked for by number, such as a list or a dataset's column;
            only the rows at hand are read.
        path: The file; it appears when it is whole. Until then its rows are in the folder `<path>.partial`.
        role: Whether the model's prompt for documents or the one for queries applies.
        rows_at_once: Rows that are encoded and written together.
        show_progress_bar: Whether to show rows that are done; None shows them on a terminal.
        **options: Of `encode`, such as `batch_size`, `normalize_embeddings`, `truncate_dim`, `precision`.

    Returns:
        `(items, dim)`, a memory map of the file, read-only.

    Raises:
        InputError: There are no inputs, `rows_at_once` is not positive, an option would not give one array, or an
            embedding is NaN or infinite; its row is named.
        MediaError: An input cannot be read; its row is named.
        ResourceError: The disk is full (the space of all rows is taken at the start), or another process is encoding
            to the same path.

    Example:
        >>> vectors = encode_to_disk(model, pages, "vectors.npy", batch_size=64)
        >>> vectors.shape, type(vectors)
        ((2, 384), <class 'numpy.memmap'>)
    """
    target = Path(path)
    check_options(len(inputs), rows_at_once, options)
    partial = target.with_name(target.name + ".partial")
    if target.exists():
        done = OrderedRows(target, len(inputs))
        done.keys = partial / "rows.keys"  # still there where a call was killed after its last row
        if not done.keys.is_file() or not _holds(done, model, inputs, role, options, rows_at_once):
            raise InputError(
                f"path: expected a file that is not there yet, got {target}; a file that encoding left there is whole: "
                "open it, or delete it to encode anew"
            )
        folders.discard(partial, [".lock", done.keys.name])
        return open_memmap(target, mode="r")
    # The last item is looked at now: a column that turns bad, or a total row, is not found out hours later.
    content_keys(model, [inputs[len(inputs) - 1]], queries=role == "query", first_row=len(inputs) - 1)
    with folders.locked(partial, task="encoding"):
        rows = OrderedRows(partial / "rows.npy", len(inputs))
        made_from = rows_made_from(identity(model), model, role, options)
        with runtime.progress_bar(label="Encoding", total=len(inputs), show=show_progress_bar, unit="item") as bar:
            for start in range(0, len(inputs), rows_at_once):
                held = [inputs[row] for row in range(start, min(start + rows_at_once, len(inputs)))]
                fill_rows(model, rows, held, start, start, made_from, role, options)
                bar.update(len(held))
        rows.path.replace(target)
    # The keys go last: a call that is killed before is known by them, and one that is killed after had ended.
    folders.discard(partial, [".lock", rows.keys.name])
    return open_memmap(target, mode="r")


def _holds(
    rows: OrderedRows,
    model: SentenceTransformer,
    inputs: Sequence[Any],
    role: Role,
    options: dict[str, Any],
    at_once: int,
) -> bool:
    """Tell whether a file holds all rows as this call would make them."""
    made_from = rows_made_from(identity(model), model, role, options)
    for start in range(0, len(inputs), at_once):
        held = [inputs[row] for row in range(start, min(start + at_once, len(inputs)))]
        contents = content_keys(model, held, queries=role == "query", first_row=start)
        if len(rows.missing(start, row_keys(made_from, contents))):
            return False
    return True


def fill_rows(
    model: SentenceTransformer,
    rows: OrderedRows,
    items: list[Any],
    first_row: int,
    start: int,
    made_from: str,
    role: Role,
    options: dict[str, Any],
) -> None:
    """Encode those of some consecutive rows that a file does not hold yet.

    Args:
        model: A dense encoder.
        rows: The file.
        items: The rows' items.
        first_row: Number of the first one in the corpus, for errors.
        start: Its place in the file.
        made_from: See `rows_made_from`.
        role: Of the items.
        options: Of `encode`.
    """
    keys = row_keys(made_from, content_keys(model, items, queries=role == "query", first_row=first_row))
    encode: Any = model.encode_query if role == "query" else model.encode_document
    for run in runs(rows.missing(start, keys)):
        first = first_row + int(run[0])  # an error names the row of the corpus
        some = encode([items[row] for row in run], first_row=first, **{**options, "show_progress_bar": False})
        check_finite(Packed(values=some, dim=some.shape[1]), first)
        rows.write(start + run, some, keys[run])


def check_options(items: int, rows_at_once: int, options: dict[str, Any]) -> None:
    """Refuse what would not give one array of embeddings.

    Raises:
        InputError: There are no items, `rows_at_once` is not positive, or an option gives something else.
    """
    if not items:
        raise InputError("inputs: expected at least one item, got none")
    if rows_at_once < 1:
        raise InputError(f"rows_at_once: expected a positive number, got {rows_at_once}")
    wrong = sorted(options.keys() & {"convert_to_tensor", "convert_to_numpy", "output_value"})
    if wrong:
        raise InputError(f"options: expected options that give one array of embeddings, got {wrong}")
    if options.get("precision") in ("int8", "uint8"):
        raise InputError(
            f"precision: expected float32, binary or ubinary, got {options['precision']!r}, whose ranges need all "
            "embeddings; encode in float32 and quantize with omnitune.quantize_embeddings"
        )


def rows_made_from(weights: str, model: SentenceTransformer, role: Role, options: dict[str, Any]) -> str:
    """Digest what every row of embeddings depends on, besides its item.

    Args:
        weights: `identity` of the model.
        model: Says which prompts there are.
        role: Of the items.
        options: Of `encode`; the size of a mini-batch is no part of it.
    """
    plain = sorted((name, value) for name, value in options.items() if name != "batch_size")
    made = repr((weights, role, plain, model.prompts, model.default_prompt_name, model.truncate_dim))
    return hashlib.blake2b(made.encode(), digest_size=16).hexdigest()
