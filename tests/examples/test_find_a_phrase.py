"""The example that finds a spoken phrase runs and improves, on fewer recordings than it takes by itself."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_what_is_misheard_is_learnt(tmp_path, minilm, monkeypatch):
    for package in ("espeakng_loader", "pocketsphinx"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(EXAMPLES)
    gain = runpy.run_path(str(EXAMPLES / "find_a_phrase.py"))["main"](tmp_path, train=24, test=12)
    assert gain.queries == 12
    assert gain.difference > 0.05
