"""The example that finds a clip by a sentence runs and improves, on fewer epochs than it takes by itself."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_training_finds_more_of_the_held_out_clips(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    module = runpy.run_path(str(EXAMPLES / "find_a_clip.py"))
    gain = module["main"](tmp_path, epochs=3)
    assert gain.difference > 0.1
    assert module["report"](gain).startswith(f"NDCG@10 of 6 held-out queries: {gain.baseline:.3f} before, ")
