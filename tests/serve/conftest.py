"""One browser for all tests of the page, as its start costs more than they do."""

from collections.abc import Iterator

import pytest

from fixtures.browser import Browser, browsing, found


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium."""
    if found() is None:
        pytest.skip("no browser is installed")
    with browsing(tmp_path_factory.mktemp("browser")) as one:
        yield one
