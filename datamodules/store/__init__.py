"""The store: its format, reading and writing, several stores as one, and splits."""

from datamodules.store.manifest import Manifest, StoreError, TargetInfo
from datamodules.store.store import Material, Store

__all__ = ["Manifest", "Material", "Store", "StoreError", "TargetInfo"]
