"""The tasks on one shared backbone: `lightning_modules.MaskedXRD` and its sisters.

Imported on first use: `xxact prepare` and `xxact --help` must not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.contrastive import Contrastive
    from lightning_modules.masked_contrastive import MaskedContrastive
    from lightning_modules.masked_xrd import MaskedXRD
    from lightning_modules.regression import Regression

__all__ = ["Contrastive", "MaskedContrastive", "MaskedXRD", "Regression"]

_MODULES = {
    "Contrastive": "contrastive",
    "MaskedContrastive": "masked_contrastive",
    "MaskedXRD": "masked_xrd",
    "Regression": "regression",
}


def __getattr__(name: str) -> Any:
    """Import the task's module when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
