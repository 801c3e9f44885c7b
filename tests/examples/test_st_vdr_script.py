"""The recipe script runs with either import and comes to the same losses and metrics."""

from pathlib import Path

import pytest

from fixtures import scripts

pytestmark = pytest.mark.slow

SCRIPT = scripts.ROOT / "examples" / "st_vdr_script.py"
DIMS = ("32", "16", "8")
OPTIONS = [
    "--pages-each", "11", "--width", "120", "--max-pixels", "4096", "--dims", *DIMS, "--batch-size", "8",
    "--mini-batch-size", "4", "--epochs", "2", "--learning-rate", "1e-4",
]  # fmt: skip


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("R-FAQ.pdf", "R-data.pdf", "reportlab-userguide.pdf")
    return scripts.manuals(tmp_path_factory.mktemp("manuals"), *names)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, tiny_qwen3_vl: Path, manuals: Path) -> scripts.Result:
    return scripts.run(SCRIPT, tiny_qwen3_vl, manuals, tmp_path_factory.mktemp("ours") / "run", OPTIONS)


def test_the_script_trains_evaluates_and_saves(ours: scripts.Result) -> None:
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
def test_it_is_a_script_of_sentence_transformers(
    ours: scripts.Result, tmp_path: Path, tiny_qwen3_vl: Path, manuals: Path
) -> None:
    scripts.assert_same_with_st(ours, SCRIPT, tiny_qwen3_vl, manuals, tmp_path, OPTIONS)
