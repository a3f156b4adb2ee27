"""Settings of every test process."""

import os

# Two test processes share two cores: threads of their own only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is tested on a GPU lies in tests/gpu, and asks for one.
if not os.environ.get("XXACT_TEST_DEVICE", "").startswith("cuda"):
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Real files of diffractometers are not part of the project."""
    parser.addoption("--real-data", metavar="DIR", help="read the measured patterns in this folder")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
