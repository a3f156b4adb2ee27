"""The device that a command names."""

import torch


def choose_device(name: str) -> torch.device:
    """A device that works.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, …, or `auto` for a GPU where there is one.

    Raises:
        ValueError: if there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    # torch built without CUDA asserts; others lack the backend.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); give cpu") from None
    return device
