"""Encoding a corpus into a file: more vectors than fit in memory, and a run that was stopped goes on."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.lib.format import open_memmap

from omnitune import io, runtime
from omnitune.errors import InputError, MediaError, ModalityError
from omnitune.inputs.fingerprint import fingerprint
from omnitune.model.dense import SentenceTransformer
from omnitune.retrieval.embedding_cache import identity
from omnitune.types import Column

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
    """Embed a corpus into a `.npy` file, going on where an earlier call with the same arguments was stopped.

    Args:
        model: A dense encoder.
        inputs: Anything with a length whose items can be asked for by number, such as a list or a dataset's column;
            only the rows at hand are read.
        path: The file; it appears when it is whole. Until then its rows are in `<path>.partial`.
        role: Whether the model's prompt for documents or the one for queries applies.
        rows_at_once: Rows that are encoded and written together.
        show_progress_bar: Whether to show rows that are done; None shows them on a terminal.
        **options: Of `encode`, such as `batch_size`, `normalize_embeddings`, `truncate_dim`, `precision`.

    Returns:
        `(items, dim)`, a memory map of the file, read-only.

    Raises:
        InputError: There are no inputs, `rows_at_once` is not positive, or an option would not give one array.
        MediaError: An input cannot be read; its row is named.
    """
    target = Path(path)
    check_options(len(inputs), rows_at_once, options)
    if target.exists():
        raise InputError(f"path: expected a file that is not there yet, got {target}; delete it to encode anew")
    facts = target.with_name(target.name + ".json")
    partial = target.with_name(target.name + ".partial")
    last = len(inputs) - 1
    ends = Column(name="inputs", items=[inputs[0], inputs[last]], rows=[0, last])
    key = corpus_key(identity(model), model, ends, role, {**options, "items": len(inputs)})
    done = _done(facts, partial, key)
    array: Vectors | None = open_memmap(partial, mode="r+") if done else None
    target.parent.mkdir(parents=True, exist_ok=True)
    with runtime.progress_bar(label="Encoding", total=len(inputs), show=show_progress_bar, unit="item") as bar:
        bar.update(done)
        while done < len(inputs):
            stop = min(done + rows_at_once, len(inputs))
            rows = encode_rows(model, [inputs[i] for i in range(done, stop)], done, role, options)
            if array is None:
                array = open_memmap(partial, mode="w+", dtype=rows.dtype, shape=(len(inputs), rows.shape[1]))
            array[done:stop] = rows
            array.flush()
            bar.update(stop - done)
            done = stop
            # Noted after the rows are on the disk: a stop in between costs these rows, and never leaves a gap.
            with io.writing(facts) as temporary:
                temporary.write_text(json.dumps({"key": key, "done": done}))
    del array
    partial.replace(target)
    facts.unlink()
    return open_memmap(target, mode="r")


def encode_rows(model: SentenceTransformer, items: list[Any], first: int, role: Role, options: dict[str, Any]) -> Any:
    """Embeddings `(items, dim)` of rows from number `first` on; an error names the row of the corpus."""
    encode = model.encode_query if role == "query" else model.encode_document
    return encode(items, first_row=first, **{**options, "show_progress_bar": False})


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


def corpus_key(weights: str, model: SentenceTransformer, items: Column, role: Role, options: dict[str, Any]) -> str:
    """What rows of embeddings depend on.

    Args:
        weights: `identity` of the model.
        model: Says what an item is, and which prompts there are.
        items: Those whose content counts.
        role: Of the items.
        options: Of `encode`; the size of a mini-batch is no part of the key.

    Raises:
        ModalityError: The model does not take one of the items; its row is named.
        MediaError: One of them is not there; its row is named.
    """
    kinds = [_content(model, items, index, strings_are_text=role == "query") for index in range(len(items))]
    plain = sorted((name, value) for name, value in options.items() if name != "batch_size")
    made = repr((weights, role, plain, model.prompts, model.default_prompt_name, model.truncate_dim, kinds))
    return hashlib.blake2b(made.encode(), digest_size=16).hexdigest()


def _content(model: SentenceTransformer, column: Column, index: int, *, strings_are_text: bool) -> str:
    item = column.items[index]
    try:
        return fingerprint(item, model.modality_of(item, strings_are_text=strings_are_text))
    except MediaError as error:
        raise error.at(column.place(index)) from error
    except ModalityError as error:
        raise ModalityError(f"{column.place(index)}: {error}") from error


def _done(facts: Path, partial: Path, key: str) -> int:
    """Rows that a stopped run with the same key left."""
    if not facts.exists() or not partial.exists():
        return 0
    saved = json.loads(facts.read_text())
    return int(saved["done"]) if saved["key"] == key else 0
