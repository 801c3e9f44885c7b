"""The example that finds a clip by a sentence runs and improves, on fewer epochs than it takes by itself."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "find_a_clip.py"


@pytest.mark.slow
def test_training_finds_more_of_the_held_out_clips(tmp_path):
    before, after = runpy.run_path(str(EXAMPLE))["main"](tmp_path, epochs=3)
    assert after > before + 0.1
