"""The machine: optional packages and the memory that is left."""

import gc
import shutil
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from omnitune import folders, installation, runtime
from omnitune.errors import MissingExtraError, ResourceError

HEADROOM = runtime._cgroup_headroom


def test_a_missing_package_names_the_command_that_works_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no package on a registry yet: in a clone the command installs from it, wherever the user stands."""
    clone = Path(runtime.__file__).parents[2]
    with pytest.raises(MissingExtraError, match=r"nowhere_at_all is needed here and is not installed: .*pip install"):
        runtime.require("nowhere_at_all", extra="ocr")
    monkeypatch.setattr(shutil, "which", lambda _: str(Path(sys.executable).parent / "pip"))
    monkeypatch.chdir(tmp_path)
    assert installation.pip_install("ocr") == f"pip install -e '{clone}[ocr]'"
    monkeypatch.chdir(clone)
    assert installation.pip_install("ocr") == "pip install -e '.[ocr]'"
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/pip")  # of another environment
    assert installation.pip_install("ocr") == f"{sys.executable} -m pip install -e '.[ocr]'"
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "lib" / "omnitune" / "installation.py"))  # installed
    for origin, expected in (
        ('{"url": "file:///my%20clone", "dir_info": {}}', "install '/my clone[ocr]'"),
        ('{"url": "file:///clone", "dir_info": {"editable": true}}', "install -e '/clone[ocr]'"),
        ('{"url": "https://a.b/c.git", "vcs_info": {"vcs": "git"}}', "install 'omnitune[ocr] @ git+https://a.b/c.git'"),
        ("{", "install 'omnitune[ocr]'"),
        (None, "install 'omnitune[ocr]'"),
    ):
        held = SimpleNamespace(read_text=lambda _, origin=origin: origin)
        monkeypatch.setattr(metadata, "distribution", lambda _, held=held: held)
        assert installation.pip_install("ocr").endswith(expected)


@pytest.mark.parametrize("line", ["import nowhere_at_all", "raise ImportError('libnowhere.so')"])
def test_a_package_that_is_there_and_broken_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "broken_package.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="nowhere") as caught:
        runtime.require("broken_package", extra="ocr")
    assert not isinstance(caught.value, MissingExtraError)


def test_a_peft_that_transformers_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "99.0")
    with pytest.raises(MissingExtraError, match=r"peft: expected 99.0 or newer, .* pip install 'omnitune\[lora\]'"):
        runtime.require_peft()


def test_a_folder_that_cannot_be_written_to_is_named_before_long_work(tmp_path: Path) -> None:
    assert list(folders.writable_folder(tmp_path / "new" / "one").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file: expected a folder that can be written to, got: File exists"):
        folders.writable_folder(tmp_path / "file")


def test_files_in_memory_leave_room(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 200\nfile 700\ninactive_file 400\nactive_file 300\n")
    (tmp_path / "memory.max").write_text("1000\n")
    none = tmp_path / "none"
    assert HEADROOM(tmp_path, none) == 800
    (tmp_path / "memory.max").write_text("max\n")
    assert HEADROOM(tmp_path, none) == HEADROOM(none, none) == 1 << 62


def limited(folder: Path, limit: int, used: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    cached = "" if version == 2 else "total_"
    (folder / "memory.stat").write_text(f"{cached}inactive_file 30\n{cached}active_file 10\n")


def test_the_narrowest_of_the_own_groups_counts(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("0::/user.slice/job/step\n")
    limited(root / "user.slice/job/step", 900, 100)
    assert HEADROOM(root, own) == 840
    limited(root / "user.slice/job", 500, 100)
    assert HEADROOM(root, own) == 440
    own.write_text("0::/../other/of/the/host\n")
    assert HEADROOM(root, own) == 1 << 62
    limited(root, 300, 100)
    assert HEADROOM(root, own) == 240


def test_groups_of_version_1_are_read(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n")
    limited(root / "memory", 1 << 40, 0, version=1)
    limited(root / "memory/docker/abc", 700, 200, version=1)
    assert HEADROOM(root, own) == 540


def test_a_missing_package_is_told_by_its_parent_too() -> None:
    with pytest.raises(MissingExtraError, match="nowhere_at_all.part is needed"):
        runtime.require("nowhere_at_all.part", extra="ocr")


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sha_ni", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f avx512bw", False),
        ("model name\t: bf16", False),
    ],
)
def test_bfloat16_is_told_by_the_processors_flags(tmp_path: Path, line: str, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    assert runtime.computes_bfloat16("cpu", tmp_path / "cpuinfo") is has
    assert not runtime.computes_bfloat16("mps", tmp_path / "cpuinfo")
    assert not runtime.computes_bfloat16("cpu", tmp_path / "nowhere")


def test_garbage_is_looked_for_again_after_loading_whatever_happened() -> None:
    with pytest.raises(KeyError), runtime.no_collection():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with runtime.no_collection():
            pass
        assert not gc.isenabled()  # as the caller has it
    finally:
        gc.enable()
