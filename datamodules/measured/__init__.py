"""Measured patterns: from a diffractometer's file to the model's grid.

    scan = read_scan("sample.xrdml")          # readers: text.py, xrdml.py, rigaku.py, …
    pattern = convert(scan, grid)             # conversion.py: what was done is in pattern.notes

Needs neither torch nor Lightning.
"""

from datamodules.measured.conversion import ConvertedPattern, Options, convert
from datamodules.measured.readers.files import read_scan
from datamodules.measured.scan import PatternError, Scan, Wavelength

__all__ = [
    "ConvertedPattern",
    "Options",
    "PatternError",
    "Scan",
    "Wavelength",
    "convert",
    "read_scan",
]
