"""Which reader reads a file; what cannot be read and how to convert it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from datamodules.measured.errors import PatternError
from datamodules.measured.readers.bruker import read_brml, read_uxd
from datamodules.measured.readers.cif import read_cif
from datamodules.measured.readers.gsas import is_gsas, read_gsas
from datamodules.measured.readers.rigaku import read_ras, read_rasx
from datamodules.measured.readers.text.read import Q_IN_ANGSTROM, Q_IN_NM, read_text
from datamodules.measured.readers.xrdml import read_xrdml
from datamodules.measured.scan import Scan

MAX_BYTES = 64 * 2**20
"""Largest file; patterns have some hundred kilobytes."""

_BINARY: dict[str, Callable[[bytes], Scan]] = {
    ".xrdml": read_xrdml,
    ".brml": read_brml,
    ".rasx": read_rasx,
}
_TEXT: dict[str, Callable[[str], Scan]] = {
    ".xy": read_text,
    ".xye": read_text,
    ".csv": read_text,
    ".txt": read_text,
    ".dat": read_text,
    ".asc": read_text,
    ".chi": read_text,
    ".mdi": read_text,
    ".ras": read_ras,
    ".uxd": read_uxd,
    ".cif": read_cif,
    ".gsas": read_gsas,
    ".gsa": read_gsas,
    ".gss": read_gsas,
    ".gda": read_gsas,
    ".fxye": read_gsas,
    ".esd": read_gsas,
    # Many programs use it; what is text and has a BANK is GSAS's.
    ".raw": read_gsas,
}
SUFFIXES = frozenset(_BINARY) | frozenset(_TEXT)
"""Files that a folder is searched for."""

_CONVERT = (
    "export it as .xy, .xrdml, .ras or .uxd in the diffractometer's program, or convert it with "
    "PowDLL, or with xylib's command `xyconv FILE FILE.xy`"
)
_MAGIC = {
    b"RAW1.01": "Bruker RAW version 3",
    b"RAW4.00": "Bruker RAW version 4",
    b"RAW2": "Bruker RAW version 2",
    b"RAW ": "Siemens RAW version 1",
    b"FI": "Rigaku binary",
    b"HR-XRDScan": "Philips binary",
    b"V3RD": "Philips RD",
    b"V5RD": "Philips RD",
    b"\x89PNG": "a picture",
    b"\x89HDF": "HDF5",
    b"%PDF": "PDF",
}


def find_patterns(folder: Path) -> list[Path]:
    """Files in a folder and its subfolders whose names are of patterns, by their names."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]


def formula_from_name(file: Path) -> str:
    """The beginning of a file's name, as in `MnO_run2.xy`, up to a blank, hyphen or underscore."""
    return re.split("[ _-]", file.stem, maxsplit=1)[0]


def read_scan(path: str | Path, axis: str = "two_theta") -> Scan:
    """Reads a measured pattern of any known format.

    Args:
        path: The file. Its suffix names the format; text files of GSAS are known by their content.
        axis: What the first column of text files is: "two_theta" (degrees) or "q" (Å⁻¹).

    Raises:
        PatternError: if it is missing, too large, damaged, or of a format without a reader.
    """
    path = Path(path)
    try:
        return _read(path, axis)
    except PatternError as error:
        # What a file says may stand in the message: no control characters, no pages of it.
        said = "".join(letter if letter.isprintable() else " " for letter in str(error))
        raise PatternError(f"{path}: {said[:1000]}") from None


def _read(path: Path, axis: str) -> Scan:
    if axis not in ("two_theta", "q"):
        raise PatternError(f"axis is {axis!r}; choose two_theta or q")
    if path.is_dir():
        raise PatternError("a folder; name a file")
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise PatternError("no such file") from None
    except OSError as error:
        raise PatternError(f"{error.strerror or error}") from None
    except ValueError:
        raise PatternError("no file can have this name") from None
    if len(data) > MAX_BYTES:
        raise PatternError(f"larger than {MAX_BYTES // 2**20} MB; no powder pattern is")
    if not data.strip():
        raise PatternError("empty")
    suffix = path.suffix.lower()
    scan = _BINARY[suffix](data) if suffix in _BINARY else _read_text(data, suffix)
    if axis == "q" and scan.axis != "q":
        if not scan.format.startswith("text"):
            raise PatternError(f"--axis q is for text files; {scan.format} gives 2θ")
        if Q_IN_NM in scan.warnings:
            scan.notes.append("the heading's nm⁻¹ turned into Å⁻¹")
            scan = replace(scan, x=scan.x / 10.0)
        warnings = [w for w in scan.warnings if w not in (Q_IN_NM, Q_IN_ANGSTROM)]
        scan = replace(scan, axis="q", warnings=warnings)
    return scan


def _read_text(data: bytes, suffix: str) -> Scan:
    for magic, name in _MAGIC.items():
        if data.startswith(magic) and b"\0" in data[:4096]:
            raise PatternError(f"{name}: no reader for this binary format; {_CONVERT}")
    text = _decode(data)
    if suffix not in _TEXT:
        known = " ".join(sorted(SUFFIXES))
        raise PatternError(
            f"no reader for {suffix or 'files without suffix'} (known: {known}); {_CONVERT}"
        )
    reader = _TEXT[suffix]
    if reader is read_text and is_gsas(text):
        reader = read_gsas
    if reader is read_gsas and not is_gsas(text):
        # Other programs write two columns under these suffixes.
        reader = read_text
    return reader(text)


def _decode(data: bytes) -> str:
    """Text of any usual encoding; numbers are ASCII in all of them."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise PatternError(f"UTF-16 text that is damaged ({error.reason})") from None
    if b"\0" in data:
        raise PatternError(f"a binary file, which no reader here knows; {_CONVERT}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
