"""Tensors by key: what fits in memory, what goes to files, and what happens to files that are broken or too many."""

import os
import threading
from pathlib import Path

import pytest
import torch

from omnitune.inputs.store import LOOKS, Store

ENTRY = {"a": torch.arange(4.0)}
SIZE = 16


def test_memory_is_not_exceeded() -> None:
    store = Store(2 * SIZE)
    assert [store.put(key, ENTRY) for key in ("one", "two", "three", "one")] == [True, True, False, True]
    assert store.in_memory == 2 * SIZE and store.get("three") is None
    assert torch.equal(store.get("one")["a"], ENTRY["a"])  # type: ignore[index]


def test_files_outlive_the_store_and_are_read_into_memory(tmp_path: Path) -> None:
    assert Store(0, tmp_path, 10_000).put("key", ENTRY)
    later = Store(1_000, tmp_path, 10_000)
    with torch.inference_mode():
        found = later.get("key")
    assert found is not None and torch.equal(found["a"], ENTRY["a"]) and not found["a"].is_inference()
    assert later.in_memory == SIZE and later.get("other") is None


def test_a_corrupt_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Store(0, tmp_path, 10_000).put("key", ENTRY)
    (path,) = tmp_path.rglob("*.safetensors")
    for broken in (b"", b"nonsense", path.read_bytes()[:-3]):
        path.write_bytes(broken)
        store = Store(0, tmp_path, 10_000)
        assert store.get("key") is None and not path.exists() and "made anew" in caplog.text
        store.put("key", ENTRY)
        assert store.get("key") is not None


def test_files_stay_below_their_limit_and_old_ones_give_way(tmp_path: Path) -> None:
    entry = {"a": torch.zeros(1_000)}
    store = Store(0, tmp_path, 9_000)
    assert [store.put(key, entry) for key in ("old", "new", "none")] == [True, True, False]
    (old,) = tmp_path.rglob("old*")
    (new,) = tmp_path.rglob("new*")
    os.utime(old, (1, 1))
    size = new.stat().st_size
    assert Store(0, tmp_path, size).on_disk == size
    assert new.exists() and not old.exists()


def test_processes_that_fill_one_folder_count_each_other(tmp_path: Path) -> None:
    entry = {"a": torch.zeros(250)}
    stores = [Store(0, tmp_path, 40_000) for _ in range(4)]
    for number in range(40):
        for place, store in enumerate(stores):
            store.put(f"{number} {place}", entry)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert 35_000 < written <= 40_000 * (1 + len(stores) / LOOKS), "four times 40,000 if each counted its own"
    assert stores[0].put("0 1", entry), "what another wrote is there"


def test_writers_of_one_key_leave_one_whole_file(tmp_path: Path) -> None:
    entry = {"a": torch.randn(5_000)}
    stores = [Store(0, tmp_path, 1 << 20) for _ in range(8)]
    threads = [threading.Thread(target=store.put, args=("key", entry)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["key.safetensors"]
    assert torch.equal(stores[0].get("key")["a"], entry["a"])  # type: ignore[index]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_a_folder_that_takes_nothing_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    kept = Store(1 << 20, tmp_path, 1 << 20)
    kept.put("old", {"x": torch.ones(3)})

    def refused(*arguments: object, **options: object) -> None:
        raise error

    store = Store(20, tmp_path, 1 << 20)
    monkeypatch.setattr("omnitune.inputs.store.save_file", refused)
    monkeypatch.setattr(Path, "touch", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    assert store.put("a", {"x": torch.ones(3)}) and not store.put("b", {"x": torch.ones(3)})
    assert store.get("a") is not None and store.get("b") is None and store.get("old") is not None
    assert caplog.text.count("nothing more is kept there in this run") == 1
