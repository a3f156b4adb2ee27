"""Measured patterns: from a diffractometer's file to the model's grid.

    scan = read_scan("sample.xrdml")          # readers: text.py, xrdml.py, rigaku.py, …
    pattern = convert(scan, grid)             # conversion.py: what was done is in pattern.notes

Needs neither torch nor Lightning.
"""

from datamodules.measured.conversion import ConvertedPattern, Options, convert
from datamodules.measured.errors import PatternError
from datamodules.measured.readers.files import read_scan
from datamodules.measured.scan import Scan
from datamodules.measured.wavelength import Wavelength

__all__ = [
    "ConvertedPattern",
    "Options",
    "PatternError",
    "Scan",
    "Wavelength",
    "convert",
    "read_scan",
]
