"""CIF text to a crystal: how the file is read, and what it may mean."""

from datamodules.prepare.crystals.cif.reader import MAX_CIF, crystal_from_cif, fast_crystal

__all__ = ["MAX_CIF", "crystal_from_cif", "fast_crystal"]
