"""Real files, with `pytest --real-data DIR`: each is read and converted, or refused in words."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.measured import Options, PatternError, convert, read_scan
from datamodules.measured.readers.files import SUFFIXES
from datamodules.measured.wavelength import parse_wavelength

#: Files known to be refused, and why.
REFUSED = {"synthetic-quartz-xrd.xye": "a list of lines", "BT86.raw": "Bruker RAW version 3"}


def test_real_files_are_read_and_converted(request: pytest.FixtureRequest) -> None:
    folder = request.config.getoption("--real-data")
    if folder is None:
        pytest.skip("no --real-data DIR")
    paths = [p for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in SUFFIXES]
    paths = [path for path in paths if path.name != "index.csv"]
    assert paths
    for path in paths:
        if path.name in REFUSED:
            with pytest.raises(PatternError, match=REFUSED[path.name]):
                convert(read_scan(path), options=Options(wavelength=parse_wavelength("CuKa")))
            continue
        scan = read_scan(path)
        wavelength = None if scan.wavelength else parse_wavelength("CuKa")
        pattern = convert(scan, options=Options(wavelength=wavelength, fwhm=0.5))
        assert np.nanmax(pattern.profile) == 1.0, path
        # Most of a pattern is not lines: the background is gone.
        assert np.nanmedian(pattern.profile) < 0.1, path
