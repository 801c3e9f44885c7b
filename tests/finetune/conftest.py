"""What the pipeline's tests share, made anew for each file: a cache, the tiny manuals, the tiny retriever."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.tiny_pdfs import write_folder
from fixtures.tiny_reader import write_tiny_bert, write_tiny_reader


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Readings are shared by the tests of one file and by nobody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNITUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("docs") / "manuals")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_reader(folder / "reader", write_tiny_bert(folder / "bert"))
