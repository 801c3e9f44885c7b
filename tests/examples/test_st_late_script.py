"""The late-interaction recipe runs with either import and comes to the same losses and metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures import late_checkpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "st_late_script.py"


def run(script: Path, model: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Run a script in a process of its own: its trainer's state, its metrics, what it printed."""
    documents = out.parent / "manuals"
    documents.mkdir()
    for name in ("R-FAQ.pdf", "R-data.pdf"):
        (documents / name).symlink_to(ROOT / "examples" / "documents" / name)
    command = [
        sys.executable, "-W", "ignore", script, "--model", model, "--documents", documents, "--out", out,
        "--pages-each", "9", "--query-length", "12", "--document-length", "40", "--batch-size", "6",
        "--mini-batch-size", "4", "--learning-rate", "1e-3",
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
def late(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, _st: None) -> Path:
    return late_checkpoints.native(tmp_path_factory.mktemp("late") / "model", tiny_bert)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, late: Path) -> Any:
    out = tmp_path_factory.mktemp("ours") / "run"
    return out, *run(SCRIPT, late, out)


def test_the_script_trains_evaluates_and_saves(ours: Any) -> None:
    out, state, metrics, printed = ours
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == state["max_steps"] >= 2
    assert metrics["before"].keys() == metrics["after"].keys()
    assert {"pages_meanmaxsim_ndcg@10", "pages_meanmaxsim_accuracy"} <= metrics["after"].keys()
    assert metrics["pooled"]["vectors"] < 0.6 * metrics["whole"]["vectors"]
    assert "held out" in printed
    modules = json.loads((out / "final" / "modules.json").read_text())
    names = ["Transformer", "Dense", "MultiVectorMask", "Normalize"]
    assert [entry["type"].rpartition(".")[2] for entry in modules] == names


@pytest.mark.parity
def test_it_is_a_script_of_sentence_transformers(ours: Any, tmp_path: Path, late: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.read_text().replace("omnitune", "sentence_transformers"))
    _, state, metrics, _ = ours
    their_state, their_metrics, _ = run(script, late, tmp_path / "run")
    assert state["max_steps"] == their_state["max_steps"]
    for mine, reference in zip(state["log_history"], their_state["log_history"], strict=True):
        timeless = {key for key in reference if not key.endswith(("_runtime", "_per_second", "flos"))}
        assert timeless <= mine.keys()
        for key in timeless:
            assert mine[key] == pytest.approx(reference[key], abs=2e-4), key
    for moment, values in their_metrics.items():
        assert metrics[moment] == pytest.approx(values, abs=1e-6), moment
