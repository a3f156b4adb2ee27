"""The device of these tests: a GPU, by `make test-gpu`; skipped, with the reason, without one.

`XXACT_TEST_DEVICE=cpu` runs the same bodies on the CPU, so that they are known to work before a
machine with a GPU is at hand; what only a GPU has is left out there.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

# Before CUDA starts: matrix products of a deterministic run need it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from tests.lightning_modules.training.accelerator import Waits

NAME = os.environ.get("XXACT_TEST_DEVICE", "")


@pytest.fixture(scope="session")
def device() -> torch.device:
    if not NAME:
        pytest.skip("needs a GPU: `make test-gpu`, where there is one")
    if NAME.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no GPU here")
    return torch.device(NAME)


@pytest.fixture(autouse=True)
def _as_found(device: torch.device) -> Iterator[None]:
    """Leave no graphs, switches or memory to the next test."""
    torch._dynamo.reset()
    yield
    torch.use_deterministic_algorithms(False)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


@contextmanager
def _no_synchronisation() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def no_waiting(device: torch.device) -> AbstractContextManager[object]:
    """What waits for the device raises inside."""
    return _no_synchronisation() if device.type == "cuda" else Waits()
