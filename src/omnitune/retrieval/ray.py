"""Encoding a corpus on a Ray cluster: blocks of rows, each encoded by some worker into a shard of its own.

    folder/00000000.npy    embeddings of block 0 `(rows, dim)`
           00000000.keys   digest of what each of its rows depends on (see `ordered`)
           corpus.json     there when every shard is: `{"rows", "rows_at_once", "shards"}`

A block travels as two row numbers: workers open the corpus themselves and write where they are, so folder, corpus and
model must be at the same paths on every machine, and the object store stays empty. A run that was stopped reads the
content of all items and encodes the rows that are not done.
"""

import logging
import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omnitune import errors, folders, io, runtime
from omnitune.model.dense import SentenceTransformer
from omnitune.retrieval.ordered import OrderedRows
from omnitune.retrieval.store import identity
from omnitune.retrieval.to_disk import ROWS_AT_ONCE, Role, Vectors, check_options, fill_rows, rows_made_from

FACTS = "corpus.json"

CORES_A_WORKER = 4
"""Cores of a worker without a GPU."""

OBJECT_STORE_BYTES = 80 * 2**20
"""Of a cluster that is started here: blocks are row numbers. Ray takes no less than 75 MiB."""


def encode_on_ray(
    load: Callable[[], SentenceTransformer],
    reopen: Callable[[], Sequence[Any]],
    folder: str | Path,
    *,
    role: Role = "document",
    rows_at_once: int = ROWS_AT_ONCE,
    workers: int | None = None,
    address: str | None = None,
    show_progress_bar: bool | None = None,
    **options: Any,
) -> list[Vectors]:
    """Embed a corpus on a Ray cluster into shards, keeping those that an earlier call with the same arguments made.

    Args:
        load: Makes the model; called in every worker, so it must pickle.
        reopen: Makes the items, anything with a length and item access; called here and in every worker.
        folder: Where the shards go; all machines must see it.
        role: Whether the model's prompt for documents or the one for queries applies.
        rows_at_once: Rows of a shard.
        workers: Processes that encode; by default one a GPU of the cluster, or one for every four cores.
        address: Of a running cluster; None starts one on this machine, which ends with the call.
        show_progress_bar: Whether to show rows that are done; None shows them on a terminal.
        **options: Of `encode`, such as `batch_size`, `normalize_embeddings`, `truncate_dim`, `precision`.

    Returns:
        The shards `(rows, dim)` in order, memory-mapped.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: There are no inputs, or an option or a number cannot work.
        MediaError: An input cannot be read; its row is named.
        ResourceError: A worker failed otherwise; its rows are named.

    Example:
        >>> from functools import partial
        >>> load = partial(SentenceTransformer, "embedded")
        >>> encode_on_ray(load, partial(list, pages), "vectors")[0].shape  # starts a cluster  # doctest: +SKIP
        (2, 384)
    """
    ray, data = runtime.require("ray", extra="ray"), runtime.require("ray.data", extra="ray")
    place, total = Path(folder).absolute(), len(reopen())
    check_options(total, rows_at_once, options)
    if workers is not None and workers < 1:
        raise errors.InputError(f"workers: expected a positive number, got {workers}")
    starts = range(0, total, rows_at_once)
    blocks = [{"start": start, "stop": min(start + rows_at_once, total)} for start in starts]
    with (
        folders.locked(place, task="encoding"),
        _cluster(ray, address),
        runtime.progress_bar(label="Encoding", total=total, show=show_progress_bar, unit="item") as bar,
    ):
        io.remove_file(place / FACTS)
        made = data.from_items(blocks, override_num_blocks=len(blocks)).map(
            _Worker,
            fn_constructor_args=(load, reopen, total, str(place), rows_at_once, role, options),
            **_resources(ray, data, workers, len(blocks)),
        )
        for block in made.iter_rows():
            if block["error"]:
                raise getattr(errors, block["kind"])(block["error"])
            bar.update(block["stop"] - block["start"])
        _remove_others(place, len(blocks))
        io.write_json(place / FACTS, {"rows": total, "rows_at_once": rows_at_once, "shards": len(blocks)})
    return open_shards(place)


def open_shards(folder: str | Path) -> list[Vectors]:
    """The shards of an encoded corpus `(rows, dim)`, in order, memory-mapped; `evaluation.ranking.retrieve` takes them.

    Raises:
        InputError: The folder does not hold a complete corpus.
    """
    try:
        shards = range(io.read_json_or_none(Path(folder) / FACTS)["shards"])
        return [np.load(_shard(Path(folder), number), mmap_mode="r", allow_pickle=False) for number in shards]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.InputError(
            f"folder: expected a complete corpus, got {folder} without a whole {FACTS} and all its shards; encode it "
            "again"
        ) from error


class _Worker:
    """Encodes blocks in one process of the cluster."""

    def __init__(
        self,
        load: Callable[[], SentenceTransformer],
        reopen: Callable[[], Sequence[Any]],
        total: int,
        folder: str,
        rows_at_once: int,
        role: Role,
        options: dict[str, Any],
    ) -> None:
        self.load, self.reopen = load, reopen
        self.total, self.folder, self.rows_at_once = total, Path(folder), rows_at_once
        self.role, self.options = role, options
        self.opened: tuple[SentenceTransformer, str, Sequence[Any]] | None = None

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        start, stop = int(block["start"]), int(block["stop"])
        try:
            self._encode(start, stop)
        except errors.OmnituneError as error:
            return {"start": start, "stop": stop, "kind": type(error).__name__, "error": str(error)}
        except Exception:  # noqa: BLE001  # Ray would wrap it, or start the block again, without saying which rows
            said = f"rows {start} to {stop - 1}: a worker failed:\n{traceback.format_exc()}"
            return {"start": start, "stop": stop, "kind": "ResourceError", "error": said}
        return {"start": start, "stop": stop, "kind": "", "error": ""}

    def _encode(self, start: int, stop: int) -> None:
        model, made_from, items = self._open()
        rows = OrderedRows(_shard(self.folder, start // self.rows_at_once), stop - start)
        held = [items[row] for row in range(start, stop)]
        fill_rows(model, rows, held, start, 0, made_from, self.role, self.options)

    def _open(self) -> tuple[SentenceTransformer, str, Sequence[Any]]:
        """Model and corpus, from the first block on: an error must belong to a block to reach the caller."""
        if self.opened is None:
            model, items = self.load(), self.reopen()
            if len(items) != self.total:
                raise errors.InputError(
                    f"source: expected {self.total} items on every machine, got {len(items)}; it must not change "
                    "during the run"
                )
            made_from = rows_made_from(identity(model), model, self.role, self.options)
            self.opened = model, made_from, items
        return self.opened


def _shard(folder: Path, number: int) -> Path:
    return folder / f"{number:08}.npy"


def _remove_others(folder: Path, shards: int) -> None:
    """Delete the shards that an earlier run with more blocks left, and nothing else."""
    for keys in folder.glob("[0-9]" * 8 + ".keys"):
        if int(keys.stem) >= shards:
            keys.with_suffix(".npy").unlink(missing_ok=True)
            keys.unlink()


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """A connection to Ray, ended where it was made here; its statistics and its dashboard stay off."""
    if ray.is_initialized():
        yield
        return
    own = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False, "num_cpus": runtime.cores()}
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with runtime.environment(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal"):
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else own),
        )
    try:
        yield
    finally:
        ray.shutdown()


def _resources(ray: Any, data: Any, workers: int | None, blocks: int) -> dict[str, Any]:
    """Resources that a worker over blocks asks of the cluster: nothing that some machine could not give."""
    data.DataContext.get_current().enable_progress_bars = False
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores, gpus = min(int(node.get("CPU", 1)) for node in nodes), sum(int(node.get("GPU", 0)) for node in nodes)
    wanted = min(workers or gpus or max(cores // CORES_A_WORKER, 1) * len(nodes), blocks)
    pool = {"compute": data.ActorPoolStrategy(size=wanted)}
    if gpus:
        return {**pool, "num_cpus": 1, "num_gpus": 1 / math.ceil(wanted / gpus)}
    return {**pool, "num_cpus": max(cores // math.ceil(wanted / len(nodes)), 1)}
