"""Crystal structures, their CIF, and their diffraction lines."""
