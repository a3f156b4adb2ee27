"""From crystal structures to batches: preparation, store, stream and rendering."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.xrd_datamodule import XRDDataModule

__all__ = ["XRDDataModule"]


def __getattr__(name: str) -> object:
    # Lazy: `datamodules.store.store` must not import torch and Lightning.
    if name == "XRDDataModule":
        from datamodules.xrd_datamodule import XRDDataModule

        return XRDDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
