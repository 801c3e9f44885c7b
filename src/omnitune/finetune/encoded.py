"""Embeddings of a test on disk: encoded once for each model, read by whatever measures them.

A folder holds `queries.npy` and `pages.npy`, both float32, written whole.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnitune import io, runtime
from omnitune.documents.dataset import DocumentDataset
from omnitune.finetune.choose import Choice
from omnitune.model.dense import SentenceTransformer

Matrix = NDArray[np.float32]
Say = Callable[[str], None]
"""Tells the user one line."""

CHUNK = 128
"""Pages encoded at a time: enough to sort by length, few enough to hold and to see the bar move."""


def encode_test(
    model: SentenceTransformer,
    queries: Sequence[str],
    pages: Sequence[Any],
    folder: Path,
    *,
    batch_size: int,
    label: str,
) -> None:
    """Encode queries and pages into `folder`.

    Args:
        model: The encoder.
        queries: Texts.
        pages: Page images, or texts; slices of it are taken one after another.
        folder: Where the embeddings go.
        batch_size: Items encoded at once.
        label: Label of the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "queries.npy", model.encode_query(list(queries), batch_size=batch_size, show_progress_bar=False))
    parts: list[Matrix] = []
    with runtime.progress_bar(label=label, total=len(pages), unit="page") as bar:
        for start in range(0, len(pages), CHUNK):
            chunk = list(pages[start : start + CHUNK])
            parts.append(_array(model.encode_document(chunk, batch_size=batch_size, show_progress_bar=False)))
            bar.update(len(chunk))
    _save(folder / "pages.npy", np.concatenate(parts))


def base_inputs(chosen: Choice, dataset: DocumentDataset) -> dict[str, Any]:
    """All that the embeddings of the base model depend on."""
    return {
        "dataset": dataset.facts["fingerprint"],
        "model": chosen.identity(),
        "batch_size": chosen.recipe.evaluation.batch_size,
    }


def load_test(folder: Path) -> tuple[Matrix, Matrix]:
    """Embeddings of the queries `(queries, dim)` and of the pages `(pages, dim)`."""
    return np.load(folder / "queries.npy"), np.load(folder / "pages.npy")


def announce(
    what: str, items: Sequence[Any], work: Callable[[list[Any]], object], say: Say, *, sample: int = 8
) -> None:
    """Say how long `work` on all items will take, by timing it on a few of them once it is warm.

    Args:
        what: Start of the line, such as `"Encoding 162 pages"`.
        items: What will be worked on.
        work: Called with the sample.
        say: Told the line.
        sample: Items to time.
    """
    few = list(items[:sample])
    work(few[:1])
    timed = few[1:] or few
    started = time.perf_counter()
    work(timed)
    each = (time.perf_counter() - started) / len(timed)
    say(f"{what}: about {about(each * len(items))} ({each:.2g} s each)")


def about(seconds: float) -> str:
    """A rough duration: `"20 s"`, `"4 min"`, `"1.5 h"`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _array(values: Any) -> Matrix:
    return np.asarray(values, dtype=np.float32)


def _save(path: Path, values: Any) -> None:
    with io.writing(path) as temporary, temporary.open("wb") as file:
        np.save(file, _array(values))
