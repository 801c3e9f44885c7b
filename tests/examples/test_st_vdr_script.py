"""The recipe script runs with either import and comes to the same losses and metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "st_vdr_script.py"
DIMS = ("32", "16", "8")


def run(script: Path, model: Path, documents: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Run a script in a process of its own: its trainer's state, its metrics, what it printed."""
    command = [
        sys.executable, "-W", "ignore", script, "--model", model, "--documents", documents, "--out", out,
        "--pages-each", "11", "--width", "120", "--max-pixels", "4096", "--dims", *DIMS, "--batch-size", "8",
        "--mini-batch-size", "4", "--epochs", "2", "--learning-rate", "1e-4",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, cwd=out.parent)
    assert result.returncode == 0, result.stderr[-3000:]
    return (
        json.loads((out / "trainer_state.json").read_text()),
        json.loads((out / "metrics.json").read_text()),
        result.stdout,
    )


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the demo's manuals."""
    folder = tmp_path_factory.mktemp("manuals")
    for name in ("R-FAQ.pdf", "R-data.pdf", "reportlab-userguide.pdf"):
        (folder / name).symlink_to(ROOT / "examples" / "documents" / name)
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, tiny_qwen3_vl: Path, manuals: Path) -> Any:
    out = tmp_path_factory.mktemp("ours") / "run"
    return out, *run(SCRIPT, tiny_qwen3_vl, manuals, out)


def test_the_script_trains_evaluates_and_saves(ours: Any) -> None:
    out, state, metrics, printed = ours
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == state["max_steps"] >= 6
    evaluations = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert len(evaluations) == 4
    assert all(f"eval_vdr-{dim}_cosine_ndcg@10" in entry for dim in DIMS for entry in evaluations)
    assert metrics["before"].keys() == metrics["after"].keys()
    assert "held out" in printed
    assert (out / "final" / "model.safetensors").is_file()
    assert len([*out.glob("checkpoint-*")]) == 2


@pytest.mark.parity
def test_it_is_a_script_of_sentence_transformers(ours: Any, tmp_path: Path, tiny_qwen3_vl: Path, manuals: Path) -> None:
    pytest.importorskip("sentence_transformers")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.read_text().replace("omnitune", "sentence_transformers"))
    _, state, metrics, _ = ours
    their_state, their_metrics, _ = run(script, tiny_qwen3_vl, manuals, tmp_path / "run")
    assert state["max_steps"] == their_state["max_steps"]
    for mine, reference in zip(state["log_history"], their_state["log_history"], strict=True):
        timeless = {key for key in reference if not key.endswith(("_runtime", "_per_second", "flos"))}
        assert timeless <= mine.keys()
        for key in timeless:
            assert mine[key] == pytest.approx(reference[key], abs=2e-4), key
    for moment, values in their_metrics.items():
        assert metrics[moment] == pytest.approx(values, abs=1e-6), moment
