from pathlib import Path

import pytest

from tests.lightning_modules.page import laboratory


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, a library and scans."""
    folder = tmp_path_factory.mktemp("lab")
    laboratory.furnish(folder)
    return folder
