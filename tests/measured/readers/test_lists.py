"""Lists of counts whose heading says where the angles are."""

from pathlib import Path

import numpy as np
import pytest

from datamodules.measured import PatternError
from tests.measured.readers.test_text import X, Y, read

RIGAKU = """*TYPE\t\t=  Raw
*SCAN_AXIS\t=  2theta/theta
*WAVE_LENGTH1\t=  1.54056
*WAVE_LENGTH2\t=  1.54439
*XUNIT\t\t=  deg
*YUNIT\t\t=  {unit}
*BEGIN
*GROUP\t\t=  0
*START\t\t=  {start:.4f}
*STOP\t\t=  {stop:.4f}
*STEP\t\t=  0.0400
*SPEED\t\t= {speed}
*SPEED_UNIT\t= deg/min
*COUNT\t\t=  {count}

"""


def rigaku(x: np.ndarray, y: np.ndarray, unit: str = "counts", speed: float = 2.0) -> str:
    head = RIGAKU.format(unit=unit, start=x[0], stop=x[-1], count=len(x), speed=speed)
    body = [", ".join(f"{v:.4f}" for v in y[i : i + 4]) for i in range(0, len(y), 4)]
    return head + "\n".join(body) + "\n*END\n"


def jade(x: np.ndarray, y: np.ndarray) -> str:
    head = f"a scan\n {x[0]:.2f} 0.04 1.0 CU 1.54060 {x[-1]:.2f} {len(x)}\n"
    return head + "\n".join("".join(f"{v:8.0f}" for v in y[i : i + 8]) for i in range(0, len(y), 8))


def keys(x: np.ndarray, y: np.ndarray) -> str:
    head = f"Start angle: {x[0]:.2f}\nStep size: 0.04 deg\nNumber of points: {len(x)}\n"
    return head + "\n".join(f"{v:.0f}" for v in y)


def philips(x: np.ndarray, y: np.ndarray) -> str:
    head = f"SampleIdent,x,/\nDataAngleRange, {x[0]:.4f}, {x[-1]:.4f},/\nScanStepSize, 0.040,/\n"
    return head + "RawScan\n" + ", ".join(f"{v:.0f}" for v in y)


def downwards(x: np.ndarray, y: np.ndarray) -> str:
    return rigaku(x[::-1], y[::-1])


@pytest.mark.parametrize("writer", [rigaku, jade, keys, philips, downwards])
def test_lists_of_counts_get_the_angles_of_their_heading(writer: object, tmp_path: Path) -> None:
    assert callable(writer)
    scan = read(tmp_path, writer(X, Y), "a.asc")
    np.testing.assert_allclose(scan.x, X, atol=1e-6)
    np.testing.assert_allclose(scan.intensity, Y, atol=0.5)
    if writer in (rigaku, jade):
        assert scan.wavelength is not None
        assert scan.wavelength.mean == pytest.approx(1.541, abs=1e-3)
    # A list that is cut says so; four columns of counts are no angles.
    cut = writer(X, Y).replace("1001", "1005").replace(f"{X[-1]:.2f}", f"{X[-1] + 0.16:.2f}")
    with pytest.raises(PatternError, match=r"1001 intensities where|a single number|is no scan"):
        read(tmp_path, cut, "a.asc")


def test_a_list_without_a_heading_says_what_is_missing(tmp_path: Path) -> None:
    rows = [" ".join(f"{v:.0f}" for v in Y[i : i + 8]) for i in range(0, len(Y), 8)]
    with pytest.raises(PatternError, match=r"line 126.*a list of counts, which needs start"):
        read(tmp_path, "\n".join(rows))


def test_groups_of_rigaku_are_joined_by_their_speeds(tmp_path: Path) -> None:
    a, b = X < 30, X >= 30
    text = rigaku(X[a], Y[a], speed=6.0) + rigaku(X[b], 6.0 * Y[b], speed=1.0)
    scan = read(tmp_path, text, "a.asc")
    np.testing.assert_allclose(scan.intensity, 6.0 * Y, rtol=1e-6)
    assert "ranges joined" in " ".join(scan.notes)
    rates = rigaku(X[a], Y[a], "cps", 6.0) + rigaku(X[b], Y[b], "cps", 1.0)
    np.testing.assert_allclose(read(tmp_path, rates, "a.asc").intensity, Y, rtol=1e-6)
