"""The tasks on one shared backbone."""

from lightning_modules.masked_xrd import MaskedXRD

__all__ = ["MaskedXRD"]
