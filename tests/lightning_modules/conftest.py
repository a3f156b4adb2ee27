"""Two processes for the tests that need several ranks; started when first asked for."""

from collections.abc import Iterator

import pytest

from tests.lightning_modules.processes import Processes


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    started = Processes(2)
    yield started
    started.close()
