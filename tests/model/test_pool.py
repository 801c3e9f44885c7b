"""Chunks handed out and answers put together, with queues that answer in this process."""

import queue
from types import SimpleNamespace
from typing import Any

import pytest

from omnitune.engine.inference import Request
from omnitune.model import pool as pools


def answering() -> tuple[pools.Pool, list[int]]:
    """A pool of one process that answers at once: the items themselves, or an error for "bad"; and first rows."""
    outputs: queue.Queue[Any] = queue.Queue()
    rows: list[int] = []

    def put(work: tuple[Any, list[str], dict[str, Any]]) -> None:
        which, items, call = work
        rows.append(call["request"].first_row)
        outputs.put((which, ValueError("bad") if "bad" in items else items))

    process = SimpleNamespace(is_alive=lambda: True)
    return {"input": SimpleNamespace(put=put), "output": outputs, "processes": [process]}, rows


def run(pool: pools.Pool, items: list[str], size: int) -> list[Any]:
    return pools.run(pool, items, {"request": Request(processing={}, forward={})}, chunk_size=size, show=False)


def test_chunks_come_back_in_order_and_know_their_rows() -> None:
    pool, rows = answering()
    assert run(pool, ["a", "b", "c", "d", "e"], 2) == [["a", "b"], ["c", "d"], ["e"]]
    assert rows == [0, 2, 4]


def test_what_a_failed_run_left_behind_answers_no_other() -> None:
    pool, _ = answering()
    with pytest.raises(ValueError, match="bad"):
        run(pool, ["bad", "old", "old", "old"], 1)
    assert not pool["output"].empty()
    assert run(pool, ["new", "newer"], 1) == [["new"], ["newer"]]


def test_processes_on_the_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[Any, ...]] = []

    class Context:
        def Queue(self) -> None:
            return None

        def Process(self, *, target: Any, args: tuple[Any, ...], daemon: bool) -> Any:
            started.append(args)
            return SimpleNamespace(start=lambda: None)

    monkeypatch.setattr(pools.multiprocessing, "get_context", lambda kind: Context())
    monkeypatch.setattr(pools.runtime, "cores", lambda: 8)
    model = SimpleNamespace(device="cpu", to=lambda device: None)
    for devices, threads in ((["cpu"] * 4, 2), (["cpu"], 8), (["cpu"] * 20, 1), (["cuda:0", "cuda:1"], None)):
        started.clear()
        pools.start(model, devices)  # type: ignore[arg-type]
        assert {args[2] for args in started} == {threads}
