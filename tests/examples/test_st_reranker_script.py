"""The reranker recipe runs with either import and comes to the same losses and metrics."""

import json
from pathlib import Path

import pytest

from fixtures import scripts

pytestmark = pytest.mark.slow

SCRIPT = scripts.ROOT / "examples" / "st_reranker_script.py"
OPTIONS = [
    "--pages-each", "5", "--width", "120", "--max-pixels", "4096", "--negatives", "2", "--batch-size", "6",
    "--learning-rate", "1e-3",
]  # fmt: skip
DIRECTIONS = ("text_to_image", "image_to_text")


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scripts.manuals(tmp_path_factory.mktemp("manuals"), "R-FAQ.pdf", "R-data.pdf")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, tiny_qwen3_vl: Path, manuals: Path) -> scripts.Result:
    return scripts.run(SCRIPT, tiny_qwen3_vl, manuals, tmp_path_factory.mktemp("ours") / "run", OPTIONS)


def test_the_script_trains_evaluates_and_saves(ours: scripts.Result) -> None:
    out, state, metrics, printed = ours
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == state["max_steps"] >= 4
    evaluated = {key for entry in state["log_history"] for key in entry if "eval" in key and "_loss" in key}
    assert evaluated == {f"eval_{direction}_loss" for direction in DIRECTIONS}
    assert all(f"{direction}_ndcg@10" in metrics["after"] for direction in DIRECTIONS)
    assert metrics["before"].keys() == metrics["after"].keys()
    assert "pairs to train on" in printed
    modules = json.loads((out / "final" / "modules.json").read_text())
    assert [entry["type"].rpartition(".")[2] for entry in modules] == ["Transformer", "LogitScore"]
    assert "<{{ message.role | capitalize }}>" in (out / "final" / "chat_template.jinja").read_text()


@pytest.mark.parity
def test_it_is_a_script_of_sentence_transformers(
    ours: scripts.Result, tmp_path: Path, tiny_qwen3_vl: Path, manuals: Path
) -> None:
    scripts.assert_same_with_st(ours, SCRIPT, tiny_qwen3_vl, manuals, tmp_path, OPTIONS)
