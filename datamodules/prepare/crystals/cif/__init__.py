"""CIF text to a crystal: how the file is read, and what it may mean."""

from datamodules.prepare.crystals.cif.reader import crystal_from_cif, fast_crystal

__all__ = ["crystal_from_cif", "fast_crystal"]
