"""The late-interaction recipe runs with either import and comes to the same losses and metrics."""

import json
from pathlib import Path

import pytest

from fixtures import late_checkpoints, scripts

pytestmark = pytest.mark.slow

SCRIPT = scripts.ROOT / "examples" / "st_late_script.py"
OPTIONS = [
    "--pages-each", "9", "--query-length", "12", "--document-length", "40", "--batch-size", "6",
    "--mini-batch-size", "4", "--learning-rate", "1e-3",
]  # fmt: skip


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, _st: None) -> Path:
    return late_checkpoints.native(tmp_path_factory.mktemp("late") / "model", tiny_bert)


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripts.manuals(tmp_path_factory.mktemp("manuals"), "R-FAQ.pdf", "R-data.pdf")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, late: Path, manuals: Path) -> scripts.Result:
    return scripts.run(SCRIPT, late, manuals, tmp_path_factory.mktemp("ours") / "run", OPTIONS)


def test_the_script_trains_evaluates_and_saves(ours: scripts.Result) -> None:
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
def test_it_is_a_script_of_sentence_transformers(
    ours: scripts.Result, tmp_path: Path, late: Path, manuals: Path
) -> None:
    scripts.assert_same_with_st(ours, SCRIPT, late, manuals, tmp_path, OPTIONS)
