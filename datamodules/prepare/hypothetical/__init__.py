"""Hypothetical crystals with energies of a universal potential: `xxact prepare hypothetical`."""
