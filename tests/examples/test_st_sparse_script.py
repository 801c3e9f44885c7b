"""The sparse recipe runs with either import and comes to the same losses and metrics."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "st_sparse_script.py"


def run(script: Path, model: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a script in a process of its own: its trainer's state and its metrics."""
    documents = out.parent / "manuals"
    documents.mkdir()
    (documents / "R-FAQ.pdf").symlink_to(ROOT / "examples" / "documents" / "R-FAQ.pdf")
    command = [
        sys.executable, "-W", "ignore", script, "--model", model, "--documents", documents, "--out", out,
        "--pages-each", "24", "--batch-size", "6", "--learning-rate", "1e-3",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, cwd=out.parent)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads((out / "trainer_state.json").read_text()), json.loads((out / "metrics.json").read_text())


@pytest.mark.parity
def test_it_is_a_script_of_both_libraries(tmp_path: Path, tiny_masked_bert: Path) -> None:
    pytest.importorskip("sentence_transformers")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.read_text().replace("omnitune", "sentence_transformers"))
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    state, metrics = run(SCRIPT, tiny_masked_bert, tmp_path / "ours" / "run")
    their_state, their_metrics = run(script, tiny_masked_bert, tmp_path / "theirs" / "run")
    assert state["max_steps"] == their_state["max_steps"] >= 3
    for mine, reference in zip(state["log_history"], their_state["log_history"], strict=True):
        timeless = {key for key in reference if not key.endswith(("_runtime", "_per_second", "flos"))}
        assert timeless <= mine.keys()
        for key in timeless:
            assert mine[key] == pytest.approx(reference[key], rel=1e-3, abs=2e-4), key
    for moment, values in their_metrics.items():
        assert metrics[moment] == pytest.approx(values, rel=1e-4, abs=1e-6), moment
    modules = json.loads((tmp_path / "ours" / "run" / "final" / "modules.json").read_text())
    assert [entry["type"].rpartition(".")[2] for entry in modules] == ["MLMTransformer", "SpladePooling"]
    assert "splade" in (tmp_path / "ours" / "run" / "final" / "README.md").read_text()
