"""Measured patterns of every format: read and brought to the grid, or refused in one line."""

import io
import random
import re
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from datamodules.measured import Options, PatternError, convert, read_scan
from datamodules.measured.wavelength import parse_wavelength
from tests.fuzz.mutation import NUMBERS, WORDS, damage
from tests.measured.patterns import FORMATS, angles, counts

_ARCHIVES = (".brml", ".rasx")


def _rigaku(x: np.ndarray, y: np.ndarray) -> bytes:
    head = f"*SCAN_AXIS = 2theta/theta\n*WAVE_LENGTH1 = 1.54056\n*START = {x[0]:.4f}\n"
    head += f"*STOP = {x[-1]:.4f}\n*STEP = {x[1] - x[0]:.4f}\n*SPEED = 2\n*COUNT = {len(x)}\n"
    body = [", ".join(f"{v:.2f}" for v in y[i : i + 4]) for i in range(0, len(y), 4)]
    return (head + "\n".join(body) + "\n*END\n").encode()


def _jade(x: np.ndarray, y: np.ndarray) -> bytes:
    head = f"a scan\n {x[0]:.2f} {x[1] - x[0]:.2f} 1.0 CU 1.54060 {x[-1]:.2f} {len(x)}\n"
    body = ["".join(f"{v:8.0f}" for v in y[i : i + 8]) for i in range(0, len(y), 8)]
    return (head + "\n".join(body)).encode()


def _named(x: np.ndarray, y: np.ndarray) -> bytes:
    rows = (f'{a:.2f};"{b:,.0f}";{2.0:.1f}' for a, b in zip(x, y, strict=True))
    return ("Anode;Cu\n2Theta (°);Counts;Time per step (s)\n" + "\n".join(rows)).encode()


def _rasx(x: np.ndarray, y: np.ndarray) -> bytes:
    rows = "\n".join(f"{a:.4f}\t{b:.1f}\t1.0" for a, b in zip(x, y, strict=True))
    conditions = (
        "<C><HWConfigurations><XrayGenerator><WaveType>Ka</WaveType><WavelengthKalpha1>1.5406"
        "</WavelengthKalpha1></XrayGenerator></HWConfigurations><ScanInformation><AxisName>"
        "TwoTheta</AxisName><Speed>2</Speed><SpeedUnit>deg/min</SpeedUnit></ScanInformation></C>"
    )
    return _zip({"Data0/Profile0.txt": rows, "Data0/MesurementConditions0.xml": conditions})


def _zip(members: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return stream.getvalue()


@cache
def wholes() -> dict[str, tuple[str, bytes]]:
    """A sound file of each format: suffix and content, by name."""
    x = angles(20, 40, 0.04)
    y = counts(x, top=1e5) + 20
    found = {name: (suffix, writer(x, y)) for name, (suffix, writer, _) in FORMATS.items()}
    more = {"rigaku": (".asc", _rigaku), "jade": (".mdi", _jade), "named columns": (".csv", _named)}
    found |= {name: (suffix, writer(x, y)) for name, (suffix, writer) in more.items()}
    return found | {"rasx": (".rasx", _rasx(x, y))}


def _bombs(suffix: str) -> Iterator[bytes]:
    """Small files that ask for much, for a suffix."""
    deep, wide = "<a>" * 100_000, "<a>" + "<b/>" * 700_000
    if suffix in _ARCHIVES:
        for name in ("Experiment0/RawData0.xml", "Data0/Profile0.txt"):
            yield _zip({name: " " * 80_000_000})
            yield _zip({name.replace("0", str(i)): "10 1\n" * 4_000_000 for i in range(4)})
            yield _zip({name: deep})
            yield _zip({name: wide})
        yield _zip({f"Data{i}/Profile{i}.txt": "" for i in range(3000)})
        yield _zip({"Experiment0/RawData0.xml": "<a/>"}, zipfile.ZIP_LZMA)
    elif suffix == ".xrdml":
        yield deep.encode()
        yield wide.encode()
        laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 20))
        yield f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]><x>&l19;</x>'.encode()
        yield b"<a " + b" ".join(b"b%d='1'" % i for i in range(200_000)) + b"/>"
    elif suffix == ".cif":
        yield b"data_a\nloop_\n_pd_meas_counts_total\n" + b"1 " * 4_000_000
        yield b"data_a\n" * 200_000
        yield b"data_a\n_x\n;" + b"x" * 10_000_000 + b"\n;\n"
        yield b"data_a\n" + b"save_b\n" * 100_000
        yield b"[" * 1_000_000
    else:
        yield b"1 2\n" * 3_000_000
        yield b"10.0 1\n" + b"9" * 5_000_000
        yield b"# a\n10 1\n" * 400_000
        yield b"1," * 500_000
        yield b"BANK 1 999999999 1 CONST 500 2 0 0 STD\n" + b" 1     1" * 10_000
        yield b"*START = 0\n*STEP = 0.000001\n*COUNT = 999999999\n*STOP = 180\n1, 2, 3\n"
        yield b"wavelength" * 100_000 + b"\n10 1\n11 2\n"
        yield b"2theta," + b"(" * 50_000 + b"\n10,1\n11,2\n"
        yield b"0 1e-300 1e300\n" + b"1 " * 5000


def _changed(content: bytes, random_: random.Random) -> bytes:
    """Damage, or a number, word or tag put in place of another."""
    if random_.random() < 0.5:
        for _ in range(random_.randrange(1, 4)):
            content = damage(content, random_)
        return content
    places = list(re.finditer(rb"[0-9][0-9.]*|[A-Za-z_]{3,}|[<>\"=,;\n\t]", content))
    if not places:
        return damage(content, random_)
    # Mostly in the heading, which decides.
    chosen = random_.choice(places[:200] if random_.random() < 0.7 else places)
    word = random_.choice((*NUMBERS, *WORDS, "1e15", "1e308", "\n", "<a>" * 300, ",", "\u2028"))
    return content[: chosen.start()] + word.encode() + content[chosen.end() :]


def mutants(seed: int, n: int) -> Iterator[tuple[str, bytes]]:
    """Damaged files of all formats in turn; every 25th asks for more than it should."""
    random_ = random.Random(f"patterns {seed}")
    formats = list(wholes().items())
    for number in range(n):
        name, (suffix, content) = formats[(seed + number) % len(formats)]
        if random_.random() < 0.04:
            content = random_.choice(list(_bombs(suffix)))
        elif suffix in _ARCHIVES and random_.random() < 0.8:
            with zipfile.ZipFile(io.BytesIO(content)) as source:
                members = {member: source.read(member) for member in source.namelist()}
            member = random_.choice(list(members))
            content = _zip(members | {member: _changed(members[member], random_)})
        else:
            content = _changed(content, random_)
        yield f"{seed}-{number}-{name.replace(' ', '_')}{suffix}", content


def check(path: Path) -> str:
    """Read a file and bring it to the grid; what is read must be a sound scan."""
    try:
        scan = read_scan(path)
    except PatternError as error:
        said = str(error)
        if not said.startswith(str(path)) or len(said.splitlines()) != 1 or len(said) > 2000:
            raise AssertionError(said[:3000]) from error
        return "refused"
    assert np.isfinite(scan.x).all()
    assert np.isfinite(scan.intensity).all()
    assert (np.diff(scan.x) > 0).all()
    try:
        wavelength = None if scan.wavelength else parse_wavelength("CuKa")
        pattern = convert(scan, options=Options(wavelength=wavelength, fwhm=0.5))
    except PatternError:
        return "refused"
    assert np.nanmax(pattern.profile) == 1.0
    return "read"
