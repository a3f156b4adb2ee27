"""Simulated scans and writers of the formats that diffractometers write."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.factories import make_material

CU = ((1.540598, 1.0), (1.544426, 0.5))
CU_MEAN = (1.540598 + 0.5 * 1.544426) / 1.5


def lines(number: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Q and multiplicity × |F|² of a cubic crystal."""
    material = make_material(number)
    return material.q.astype(float), material.intensity.astype(float)


def simulate(
    two_theta: np.ndarray,
    wavelength: float,
    number: int = 4,
    *,
    fwhm: float = 0.12,
    size: float | None = None,
    polarization: float = 1.0,
) -> np.ndarray:
    """Intensity per degree: Gaussians with the areas multiplicity × |F|² × LP.

    Args:
        two_theta: Degrees.
        wavelength: Å.
        number: Of the material.
        fwhm: Degrees, everywhere; or
        size: Å, for Scherrer's width Kλ/(D cos θ), K = 0.9.
        polarization: P.
    """
    q, area = lines(number)
    theta = np.arcsin(np.minimum(q * wavelength / (4 * np.pi), 0.999))
    lp = (1 + polarization * np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta))
    width = np.full(len(q), fwhm)
    if size is not None:
        width = np.degrees(0.9 * wavelength / (size * np.cos(theta)))
    sigma = width / 2.354820045
    away = (two_theta[:, None] - np.degrees(2 * theta)) / sigma
    return np.exp(-0.5 * away**2) @ (area * lp / sigma)


def counts(two_theta: np.ndarray, wavelength: float = CU_MEAN, top: float = 5e5) -> np.ndarray:
    """Whole counts with that maximum."""
    y = simulate(two_theta, wavelength)
    return np.round(y / y.max() * top)


def angles(start: float = 10.0, end: float = 89.98, step: float = 0.02) -> np.ndarray:
    return start + step * np.arange(round((end - start) / step) + 1)


def _pairs(x: np.ndarray, y: np.ndarray, separator: str = " ", extra: str = "") -> str:
    return "\n".join(f"{a:.4f}{separator}{b:.0f}{extra}" for a, b in zip(x, y, strict=True)) + "\n"


def xy(x: np.ndarray, y: np.ndarray) -> bytes:
    return _pairs(x, y).encode()


def xye(x: np.ndarray, y: np.ndarray) -> bytes:
    rows = (f"{a:.4f} {b:.0f} {b**0.5:.3f}" for a, b in zip(x, y, strict=True))
    return ("# a comment\n" + "\n".join(rows)).encode()


def csv(x: np.ndarray, y: np.ndarray) -> bytes:
    return ("2theta,counts\r\n" + _pairs(x, y, ",").replace("\n", "\r\n")).encode("utf-8-sig")


def decimal_commas(x: np.ndarray, y: np.ndarray) -> bytes:
    return ("Winkel;Intensität\n" + _pairs(x, y, ";").replace(".", ",")).encode("latin-1")


def txt(x: np.ndarray, y: np.ndarray) -> bytes:
    return ("; Wavelength = 1.54187\nangle\tcounts\n" + _pairs(x, y, "\t")).encode("utf-16")


def fullprof(x: np.ndarray, y: np.ndarray) -> bytes:
    body = [" ".join(f"{v:.0f}" for v in y[i : i + 10]) for i in range(0, len(y), 10)]
    head = f"{x[0]:.4f} {x[1] - x[0]:.4f} {x[-1]:.4f} a title with 3 words"
    return "\n".join([head, *body]).encode()


def xrdml(x: np.ndarray, y: np.ndarray) -> bytes:
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<xrdMeasurements xmlns="http://www.xrdml.com/XRDMeasurement/1.5">
 <xrdMeasurement measurementType="Scan">
  <usedWavelength intended="K-Alpha 1"><kAlpha1 unit="Angstrom">{CU[0][0]}</kAlpha1>
   <kAlpha2 unit="Angstrom">{CU[1][0]}</kAlpha2>
   <ratioKAlpha2KAlpha1>0.5</ratioKAlpha2KAlpha1></usedWavelength>
  <incidentBeamPath><xRayTube/></incidentBeamPath>
  <scan scanAxis="Gonio"><dataPoints>
   <positions axis="2Theta"><startPosition>{x[0]}</startPosition>
    <endPosition>{x[-1]}</endPosition></positions>
   <positions axis="Omega"><startPosition>1</startPosition><endPosition>2</endPosition></positions>
   <intensities unit="counts">{" ".join(f"{v:.0f}" for v in y)}</intensities>
  </dataPoints></scan>
 </xrdMeasurement>
</xrdMeasurements>""".encode()


def ras(x: np.ndarray, y: np.ndarray) -> bytes:
    # The attenuator is in below 30°: counts a tenth, factor 10.
    factor = np.where(x < 30, 10.0, 1.0)
    rows = [f"{a:.4f} {b / f:.4f} {f:.4f}" for a, b, f in zip(x, y, factor, strict=True)]
    head = [
        "*RAS_DATA_START",
        "*RAS_HEADER_START",
        f'*HW_XG_WAVE_LENGTH_ALPHA1 "{CU[0][0]}"',
        f'*HW_XG_WAVE_LENGTH_ALPHA2 "{CU[1][0]}"',
        '*MEAS_COND_XG_WAVE_TYPE "Ka"',
        '*MEAS_SCAN_AXIS_X_INTERNAL "TwoThetaTheta"',
        '*FILE_SAMPLE "試料"',
        "*RAS_HEADER_END",
        "*RAS_INT_START",
    ]
    text = "\r\n".join([*head, *rows, "*RAS_INT_END", "*RAS_DATA_END"])
    return text.encode("shift_jis")


def brml(x: np.ndarray, y: np.ndarray) -> bytes:
    rows = "".join(
        f"<Datum>19.2,1,{a:.5f},{a / 2:.5f},{b:.0f}</Datum>" for a, b in zip(x, y, strict=True)
    )
    raw = f"""<RawData xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><DataRoutes>
<DataRoute><ScanInformation><ScanAxes><ScanAxisInfo AxisId="TwoTheta"/>
<ScanAxisInfo AxisId="Theta"/></ScanAxes></ScanInformation>{rows}<DataViews>
<RawDataView xsi:type="FixedRawDataView" Start="0" Length="1" LogicName="MeasuredTime"/>
<RawDataView xsi:type="FixedRawDataView" Start="1" Length="1" LogicName="AbsorptionFactor"/>
<RawDataView xsi:type="VaryingRawDataView" Start="2" Length="2"/>
<RawDataView xsi:type="RecordedRawDataView" Start="4" Length="1"/>
</DataViews></DataRoute></DataRoutes>
<WaveLengthAlpha1 Unit="Å" Value="{CU[0][0]}"/><WaveLengthAlpha2 Value="{CU[1][0]}"/>
<WaveLengthRatio Value="0.5"/></RawData>"""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Experiment0/RawData0.xml", raw)
        archive.writestr("Experiment0/DataContainer.xml", "<DataContainer/>")
    return stream.getvalue()


def uxd(x: np.ndarray, y: np.ndarray) -> bytes:
    head = f"""; a comment
_FILEVERSION=2
_WL1={CU[0][0]}
_WL2={CU[1][0]}
_WLRATIO=0.5
_ANODE='Cu'
_DRIVE='COUPLED'
_STEPSIZE={x[1] - x[0]:.6f}
_START={x[0]:.6f}
_2THETA={x[0]:.6f}
_COUNTS
"""
    body = [" ".join(f"{v:.0f}" for v in y[i : i + 8]) for i in range(0, len(y), 8)]
    return (head + "\n".join(body)).encode()


def gsas(x: np.ndarray, y: np.ndarray) -> bytes:
    """Counts of six digits touch the number of detectors before them."""
    body = ["".join(f" 1{v:6.0f}" for v in y[i : i + 10]).ljust(80) for i in range(0, len(y), 10)]
    step = (x[1] - x[0]) * 100
    head = f"BANK 1 {len(x)} {len(body)} CONST {x[0] * 100:.2f} {step:.2f} 0 0 STD"
    return "\r\n".join(["a title LA= 1.54187".ljust(80), head.ljust(80), *body]).encode()


def fxye(x: np.ndarray, y: np.ndarray) -> bytes:
    rows = [f"{a * 100:14.4f} {b:14.4f} {b**0.5:14.4f}" for a, b in zip(x, y, strict=True)]
    head = f"BANK 1 {len(x)} {len(x)} CONST {x[0] * 100:.2f} 2.0 0 0 FXYE"
    return "\n".join(["a title", "# a comment", head, *rows]).encode()


def cif(x: np.ndarray, y: np.ndarray) -> bytes:
    rows = [f"{a:.4f} {b:.0f}({max(b, 1) ** 0.5:.0f})" for a, b in zip(x, y, strict=True)]
    head = f"""data_pattern
loop_
 _diffrn_radiation_wavelength
 _diffrn_radiation_wavelength_wt
 {CU[0][0]} 1.0
 {CU[1][0]} 0.5
loop_
 _pd_meas_2theta_scan
 _pd_meas_counts_total
"""
    return (head + "\n".join(rows) + "\n").encode()


#: Suffix, writer, and whether the file tells the wavelength.
FORMATS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], bytes], bool]] = {
    "two columns": (".xy", xy, False),
    "three columns": (".xye", xye, False),
    "csv": (".csv", csv, False),
    "decimal commas": (".csv", decimal_commas, False),
    "utf-16 with heading": (".txt", txt, True),
    "fullprof": (".dat", fullprof, False),
    "xrdml": (".xrdml", xrdml, True),
    "ras": (".ras", ras, True),
    "brml": (".brml", brml, True),
    "uxd": (".uxd", uxd, True),
    "gsas std": (".gsas", gsas, True),
    "gsas fxye": (".fxye", fxye, False),
    "powder cif": (".cif", cif, True),
}


def write(folder: Path, kind: str, x: np.ndarray, y: np.ndarray) -> Path:
    suffix, writer, _ = FORMATS[kind]
    path = folder / f"pattern{suffix}"
    path.write_bytes(writer(x, y))
    return path
