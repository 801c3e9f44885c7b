"""One browser for all tests of the page, as its start costs more than they do; and one server of a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.browser import Browser, browsing, found
from omnitune import SentenceTransformer


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    if found() is None:
        pytest.skip("no browser is installed")
    with browsing(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture(scope="module")
def model(tiny_bert: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny_bert), device="cpu", prompts={"query": "find: "})


@pytest.fixture(scope="module")
def address(model: SentenceTransformer) -> Iterator[str]:
    """Where the model is served; the extra `serve` has to be installed."""
    from fixtures.servers import running
    from omnitune.serve.served import Served

    with running(Served("tiny", encoder=model)) as (url, _):
        yield url
