"""`benchmarks/gpu.py` rehearsed without a GPU: two cheap parts end to end, and what it says of those that fail."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_two_parts_run_from_a_bare_checkout(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--out", str(tmp_path)]
    command += ["--part", "loss", "--part", "memory"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + (tmp_path / "gpu.log").read_text()[-3000:]
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["machine"]["rehearsal"] and report["machine"]["packages"]["torch"]
    assert [part["state"] for part in report["parts"].values()] == ["done", "done"]
    [loss] = report["parts"]["loss"]["results"]
    assert loss["facts"]["loss_omnitune"] == pytest.approx(loss["facts"]["loss_sentence_transformers"], rel=1e-4)
    peaks = report["parts"]["memory"]["results"]
    assert [peak["what"] for peak in peaks] == ["peak of a step of 8 pages", "peak of a step of 16 pages"]
    assert (tmp_path / "gpu.md").read_text() in done.stdout and "A rehearsal in tiny sizes" in done.stdout


def test_a_part_that_fails_or_hangs_is_in_the_table(script: ModuleType) -> None:
    result = {"what": "the loss", "unit": "pairs/s", "ours": 2.0, "theirs": 1.0, "ratio": 2.0, "facts": {"gb": 1.5}}
    parts = {
        "loss": {"state": "done", "results": [result]},
        "late": {"state": "out of time", "why": "not done after 30 s", "results": [result]},
        "train": {"state": "failed", "why": "RuntimeError: a | b", "results": []},
        "serve": {"state": "done", "left_out": ["uvicorn is not installed"], "results": []},
    }
    machine = {"gpu": "A GPU", "device": "cuda", "packages": {"torch": "2"}, "date": "today", "rehearsal": False}
    lines = script.table({"machine": machine, "parts": parts}).splitlines()
    assert lines[0] == "A GPU; torch 2; today"
    assert "| loss | the loss | 2 | 1 | 2 | pairs/s | gb 1.5 |" in lines
    assert "| late | **out of time; not done after 30 s** | | | | | |" in lines
    assert "| train | **failed; RuntimeError: a / b** | | | | | |" in lines
    assert "| serve | **left out: uvicorn is not installed** | | | | | |" in lines
    assert sum(script.LIMITS.values()) <= script.TOTAL <= 480
