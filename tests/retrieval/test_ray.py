"""A corpus on a local Ray cluster: the vectors of plain encode, and nothing that is done is done again.

Ray runs in processes of their own: it leaves threads, sockets and warnings behind.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnitune import SentenceTransformer
from omnitune.errors import InputError
from omnitune.retrieval import ray as on_ray
from omnitune.retrieval.ray import encode_on_ray, open_shards

ROWS = 7


class Lines:
    """Texts of a JSON file; reading row 17 ends the process that is named, if one is."""

    def __init__(self, path: Path, victim: int = 0) -> None:
        self.texts = json.loads(path.read_text())
        self.victim = victim

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> Any:
        if row == 17 and self.victim:
            os.kill(self.victim, signal.SIGKILL)
            time.sleep(60)
        return self.texts[row]


def load(path: Path, told: Path | None = None) -> SentenceTransformer:
    if told is not None:
        told.write_text(os.environ.get("RAY_USAGE_STATS_ENABLED", "unset"))
    return SentenceTransformer(str(path), device="cpu", prompts={"query": "find ", "document": "page "})


def call(folder: Path, model: Path, name: str, workers: int, victim: int = 0) -> None:
    encode_on_ray(
        partial(load, model, folder / "told"),
        partial(Lines, folder / name, victim),
        folder / f"{name}.shards",
        rows_at_once=ROWS,
        workers=workers,
        show_progress_bar=True,
        normalize_embeddings=True,
    )


def killed(folder: Path, model: Path) -> None:
    """A run on a cluster of its own whose driver is killed in the third block."""
    call(folder, model, "texts", 1, os.getpid())


def resumed(folder: Path, model: Path) -> None:
    """The same again on a cluster that is there, and then one with a bad item."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    call(folder, model, "texts", 2)
    call(folder, model, "broken", 1)


def child(folder: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and what was said; processes of a killed cluster would hold a pipe open."""
    with (folder / "said").open("w") as said:
        command = [sys.executable, __file__, *map(str, (folder, *arguments))]
        done = subprocess.run(command, stdout=said, stderr=said, timeout=240, check=False)
    return done.returncode, (folder / "said").read_text()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_equals_encode(tiny_bert: Path, texts: list[str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "texts").write_text(json.dumps(texts))
    (tmp_path / "broken").write_text(json.dumps([*texts[:-2], 5, texts[-1]]))
    assert child(tmp_path, "killed", tiny_bert)[0] == -signal.SIGKILL
    assert (tmp_path / "told").read_text() == "0"
    with pytest.raises(InputError, match="folder: expected a complete corpus, got .*texts.shards without a whole"):
        open_shards(tmp_path / "texts.shards")
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "texts.shards").glob("*.npy")}
    assert sorted(path.name for path in left) == ["00000000.npy", "00000001.npy"]
    code, said = child(tmp_path, "resumed", tiny_bert)
    assert "Encoding: 100%" in said, said[-3000:]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in left.items())
    shards = open_shards(tmp_path / "texts.shards")
    assert [len(shard) for shard in shards] == [7, 7, 7, 3] and isinstance(shards[0], np.memmap)
    expected = load(tiny_bert).encode_document(texts, normalize_embeddings=True)
    assert np.allclose(np.concatenate(shards), expected, rtol=0, atol=1e-6)
    # A block with a bad item names its row.
    assert code == 1 and "ModalityError: row 22, column 'inputs': " in said, said[-3000:]


@pytest.fixture
def worker(tiny_bert: Path, tmp_path: Path) -> Any:
    """Makes workers of the cluster, here."""

    def make(items: list[Any], role: Any = "document", total: int | None = None, **options: Any) -> on_ray._Worker:
        lists = partial(list, items)
        known = len(items) if total is None else total
        return on_ray._Worker(partial(load, tiny_bert), lists, known, str(tmp_path), ROWS, role, options)

    return make


def stamp(folder: Path) -> int:
    return (folder / "00000001.npy").stat().st_mtime_ns


def test_a_shard_serves_its_own_content_alone(worker: Any, texts: list[str], tmp_path: Path) -> None:
    block = {"start": 7, "stop": 14}
    assert worker(texts)(block) == {**block, "kind": "", "error": ""}
    first = stamp(tmp_path)
    assert (tmp_path / "00000001.keys").stat().st_size == 7 * 16
    worker(["changed", *texts[1:]])(block)
    worker(texts, batch_size=2)(block)
    assert stamp(tmp_path) == first  # another block's content, or mini-batches, are not this shard's
    for items, role, options in (
        ([*texts[:10], "changed", *texts[11:]], "document", {}),
        (texts, "query", {}),
        (texts, "query", {"truncate_dim": 8}),
    ):
        before = stamp(tmp_path)
        worker(items, role, **options)(block)
        assert stamp(tmp_path) > before
    (tmp_path / "00000001.npy").unlink()
    assert worker(texts, "query", truncate_dim=8)(block)["error"] == ""
    assert np.load(tmp_path / "00000001.npy").shape == (7, 8)


def test_what_fails_in_a_worker_is_told(worker: Any, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = worker(texts, total=25)({"start": 0, "stop": 7})
    assert (found["kind"], found["error"]) == (
        "InputError",
        "source: expected 25 items on every machine, got 24; it must not change during the run",
    )
    monkeypatch.setattr(on_ray, "fill_rows", lambda *_: 1 / 0)
    found = worker(texts)({"start": 7, "stop": 14})
    assert found["kind"] == "ResourceError"
    assert found["error"].startswith("rows 7 to 13: a worker failed:\n") and "ZeroDivisionError" in found["error"]


def test_shards_of_a_longer_run_are_removed(tmp_path: Path) -> None:
    for number in (0, 1, 12):
        for kind in ("npy", "keys"):
            (tmp_path / f"{number:08}.{kind}").write_text("")
    others = ["00000099.npy", "2024.npy", "rows.jsonl"]
    for name in others:
        (tmp_path / name).write_text("mine")
    on_ray._remove_others(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.keys", "00000000.npy", *others]


def test_workers_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="workers: expected a positive number, got 0"):
        encode_on_ray(load, partial(list, "ab"), tmp_path, workers=0)  # type: ignore[arg-type]


class Cluster:
    """What is asked of `ray` and of `ray.data` for their resources."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self.held = [{"Alive": True, "Resources": node} for node in nodes] + [{"Alive": False, "Resources": {}}]
        self.DataContext = self

    def nodes(self) -> list[dict[str, Any]]:
        return self.held

    def get_current(self) -> "Cluster":
        return self

    @staticmethod
    def ActorPoolStrategy(size: int) -> int:
        return size


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([{"CPU": 2}], None, (1, 2, None)),
        ([{"CPU": 2}], 2, (2, 1, None)),
        ([{"CPU": 16}, {"CPU": 8}], None, (4, 4, None)),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 4}], None, (8, 1, 1.0)),
        ([{"CPU": 8, "GPU": 2}], 3, (3, 1, 0.5)),
        ([{"CPU": 64}], 99, (9, 7, None)),
    ],
)
def test_workers_ask_for_what_machines_have(nodes: Any, workers: int | None, expected: Any) -> None:
    found = on_ray._resources(Cluster(*nodes), Cluster(), workers, 9)
    assert (found["compute"], found["num_cpus"], found.get("num_gpus")) == expected


if __name__ == "__main__":
    {"killed": killed, "resumed": resumed}[sys.argv[2]](Path(sys.argv[1]), Path(sys.argv[3]))
