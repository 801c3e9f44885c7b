"""Where these tests run: on a GPU, or with `OMNITUNE_GPU_TESTS=cpu` the same code on the CPU; else they are skipped."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    if os.environ.get("OMNITUNE_GPU_TESTS") == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU; OMNITUNE_GPU_TESTS=cpu runs the same code on the CPU")
    return "cuda"
