"""The radiation of a scan: from numbers, from names, and from a heading in any usual unit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from datamodules.measured.errors import PatternError
from datamodules.radiation import ANODES

#: Kβ1, Å; source as of `ANODES`.
KBETA = {
    "Cr": 2.08487,
    "Fe": 1.75664,
    "Co": 1.62083,
    "Ni": 1.50017,
    "Cu": 1.39225,
    "Mo": 0.63230,
    "Ag": 0.49708,
}
HC = 12.398419843
"""hc in keV Å (CODATA)."""

_DOUBLET = (1.0003, 1.02)
"""λ(Kα2)/λ(Kα1) of all anodes lies within."""
_USUAL = (0.05, 5.0)
"""Å of wavelengths that a heading is believed."""


@dataclass(frozen=True)
class Wavelength:
    """Radiation of a scan.

    Attributes:
        lines: Wavelengths, Å, and relative intensities, strongest first in whatever order they
            are given; one line or Kα1 and Kα2.
        source: Where it is from, for messages: "the file" or "the user".

    Raises:
        PatternError: if a wavelength is no X-ray's.
    """

    lines: tuple[tuple[float, float], ...]
    source: str = "the file"

    def __post_init__(self) -> None:
        for wavelength, weight in self.lines:
            # 0.01 Å: 1.2 MeV; 10 Å: 1.2 keV. Also refuses NaN.
            if not (0.01 <= wavelength <= 10.0 and 0.0 <= weight < math.inf):
                raise PatternError(
                    f"wavelength {wavelength:g} Å (weight {weight:g}): must lie in 0.01 to 10 Å"
                )
        if not sum(weight for _, weight in self.lines) > 0:
            raise PatternError("wavelength: no line has a positive weight")
        ordered = tuple(sorted(self.lines, key=lambda line: (-line[1], line[0])))
        object.__setattr__(self, "lines", ordered)

    @property
    def mean(self) -> float:
        """Weighted mean, Å."""
        total = sum(weight for _, weight in self.lines)
        return sum(wavelength * weight for wavelength, weight in self.lines) / total

    @classmethod
    def doublet(
        cls, alpha1: float, alpha2: float | None, ratio: float | None, source: str = "the file"
    ) -> Wavelength:
        """Kα1 and Kα2 with I(Kα2)/I(Kα1) = ratio (1/2 where unknown), or Kα1 alone."""
        if alpha2 is None or ratio == 0.0:
            return cls(((alpha1, 1.0),), source)
        return cls(((alpha1, 1.0), (alpha2, 0.5 if ratio is None else ratio)), source)

    @classmethod
    def of_lines(cls, lines: Iterable[tuple[float, float | None]], source: str) -> Wavelength:
        """From any number of lines in any order, some without weights.

        Weights of a doublet that are not known are 1 and 1/2, the shorter being Kα1. A weak line
        far from the others, such as a remainder of Kβ, is not counted into the mean.

        Raises:
            PatternError: if there are two strong lines of different radiations.
        """
        unique = {value: weight for value, weight in lines if weight is None or weight > 0}
        if not unique:
            raise PatternError("wavelength: no line has a positive weight")
        if None in unique.values():
            # Kα1 is the shorter of a pair; a third, shorter one is Kβ.
            values = sorted(unique)
            pairs = [(a, b) for a, b in pairwise(values) if is_doublet(a, b)]
            if len(values) == 1:
                return cls(((values[0], 1.0),), source)
            if len(pairs) == 1 and len(values) <= 3:
                return cls.doublet(*pairs[0], None, source)
            raise PatternError(
                f"wavelengths {', '.join(f'{x:g}' for x in values)} Å without weights: say which "
                "one was used with --wavelength, in a file that states one"
            )
        weighed = [(value, weight or 0.0) for value, weight in unique.items()]
        strongest = max(weighed, key=lambda line: line[1])
        near = [x for x in weighed if abs(x[0] / strongest[0] - 1.0) < _DOUBLET[1] - 1.0]
        others = sum(weight for _, weight in weighed) - sum(weight for _, weight in near)
        if others > 0.2 * strongest[1]:
            raise PatternError(
                f"wavelengths {', '.join(f'{x:g}' for x, _ in weighed)} Å of different radiations "
                "together; measure with one"
            )
        return cls(tuple(near), source)

    def __str__(self) -> str:
        text = f"{self.mean:.5f} Å"
        if len(self.lines) > 1:
            text += " (mean of " + ", ".join(f"{x:.5f} × {w:g}" for x, w in self.lines) + ")"
        return f"{text} from {self.source}"


def is_doublet(shorter: float, longer: float) -> bool:
    """Whether two wavelengths are as far apart as Kα1 and Kα2 of an anode."""
    return _DOUBLET[0] < longer / shorter < _DOUBLET[1]


def tube_lines(
    alpha1: float | None,
    alpha2: float | None,
    beta: float | None,
    ratio: float | None,
    used: str,
    source: str = "the file",
) -> Wavelength | None:
    """The radiation of a tube as the formats of diffractometers state it.

    Args:
        alpha1: Å; None or 0 if not stated. As `alpha2` and `beta`.
        alpha2: Å.
        beta: Å.
        ratio: I(Kα2)/I(Kα1).
        used: "alpha" for the doublet, "alpha1" for Kα1 alone, or "beta".
        source: For messages.

    Returns:
        None if the wavelength of what was used is not stated.
    """
    if used == "beta":
        return Wavelength(((beta, 1.0),), source) if beta else None
    if not alpha1:
        return None
    return Wavelength.doublet(alpha1, None if used == "alpha1" else alpha2 or None, ratio, source)


def used_line(name: str) -> str | None:
    """The line that a name such as `Ka1`, `K-Beta` or `CuKα` says; None for any other text."""
    word = re.sub(r"[\s_-]", "", name).lower().replace("alpha", "α").replace("beta", "β")
    match = re.search(r"k([aαbβ])(1(?!2|,2)|2)?", word)
    if match is None:
        return None
    if match[1] in "bβ":
        return "beta"
    return "alpha1" if match[2] == "1" else "alpha"


_CRYSTALS_FOR_ALPHA1 = re.compile(
    r"\bGe|\bSi\b|\bSi[\s(]*\d|quartz|SiO2|johansson|hybrid|alpha[\s_-]?1|α1|\bKa1", re.IGNORECASE
)
_LEAVES_DOUBLET = re.compile(
    r"graphite|\bC\b|HOPG|multilayer|mirror|g(ö|oe|o)bel|parabolic|\bLiF\b|\bPG\b|CBO",
    re.IGNORECASE,
)


def takes_kalpha2_away(monochromator: str) -> bool | None:
    """Whether a monochromator before the sample leaves Kα1 alone, from its description.

    Germanium, silicon and quartz do; graphite, lithium fluoride and mirrors do not. None where the
    description says neither.
    """
    if _CRYSTALS_FOR_ALPHA1.search(monochromator):
        return True
    return False if _LEAVES_DOUBLET.search(monochromator) else None


def parse_wavelength(text: str) -> Wavelength:
    """A wavelength given by the user: Å, or a name such as `CuKa` (doublet), `CuKa1` or `CuKb`.

    Raises:
        ValueError: if it is neither.
    """
    named = _named(text.strip(), "the user")
    if named is not None:
        return named
    try:
        value = float(text)
    except ValueError:
        names = ", ".join(f"{name}Ka" for name in ANODES)
        raise ValueError(
            f"wavelength {text!r}: give Å (such as 1.5418) or one of {names} (doublet), or "
            "CuKa1 and the like for a monochromatic beam"
        ) from None
    return Wavelength(((value, 1.0),), "the user")


def _named(text: str, source: str) -> Wavelength | None:
    word = text.replace("α", "a").replace("β", "b").replace("_", "").replace("-", "")
    word = re.sub(r"\s", "", word).replace("alpha", "a").replace("beta", "b")
    anode, line = word[:2].capitalize(), word[2:].lower()
    if anode not in ANODES or line not in ("ka", "ka1", "ka12", "kb", "kb1"):
        return None
    if line.startswith("kb"):
        return Wavelength(((KBETA[anode], 1.0),), source)
    alpha1, alpha2 = ANODES[anode]
    return Wavelength.doublet(alpha1, None if line == "ka1" else alpha2, 0.5, source)


def wavelength_of_row(text: str | None) -> Wavelength | None:
    """The wavelength in a table's field; None where it is empty or says "from the file".

    Raises:
        ValueError: if it is something else.
    """
    text = (text or "").strip()
    return None if text.lower() in ("", "from the file", "file") else parse_wavelength(text)


_NUMBER = r"(?:\d+(?:[.,]\d+)?|\.\d+)(?:[eEdD][+-]?\d{1,3})?(?![.,]?\d)"
#: Units of lengths, as Å.
_UNITS = {"m": 1e10, "µm": 1e4, "μm": 1e4, "um": 1e4, "nm": 10.0, "pm": 0.01}
_UNIT = r"(?:Å|Å|(?i:ang(?:str(?:oe|ö|o)ms?)?)|AA?|m|[uµμ]m|nm|pm)(?![A-Za-z0-9])"
_LINE = r"(?:k[\s_-]?)?(?:alpha|beta|[αβ]|[ab](?=[\s_-]?\d?\b))?[\s_-]?(?:[123](?![.\d]|,\d))?"
_WAVELENGTH = re.compile(
    rf"(?P<before>k[\s_-]?(?:alpha|beta|[αβab])[\s_-]?[123]?[\s_-]*)?"
    rf"(?:(?i:wave[\s_-]?lengths?)|(?i:\blam?b?da)|λ|\bWL|\bLA(?=\s*=)|(?i:wellenlänge)|波長)"
    rf"[\s_]*(?P<after>{_LINE})(?:[\s_]*[\[(/]?\s*(?P<unit>(?-i:{_UNIT})))?"
    rf"[^0-9\n]{{0,24}}?(?P<value>(?=\d*[.,]\d|\d+e-|\d+\s*pm\b){_NUMBER})[\s\[(]*"
    rf"(?P<end>(?-i:{_UNIT}))?",
    re.IGNORECASE,
)
_ENERGY = re.compile(
    rf"(?:(?:^|\b(?:x-?ray|photon|beam|incident|primary)[\s_]*)energy|^e(?=\s*[=:\[(]))[\s_]*[\[(/]?\s*(?P<unit>k?eV)?"
    rf"[^0-9\n]{{0,12}}?(?P<value>{_NUMBER})\s*(?P<end>k?eV)?",
    re.IGNORECASE,
)
_RATIO = re.compile(
    r"(?:k[\s_-]?(?:alpha|α|a)[\s_-]?2\s?/\s?k[\s_-]?(?:alpha|α|a)[\s_-]?1|\bwl_?ratio)"
    r"(?:\s*ratio)?[\s,;:=]+(\d*\.?\d+)",
    re.IGNORECASE,
)
_NAMED_RADIATION = re.compile(
    r"(?:radiation|wave[\s_-]?length|lambda|λ)[^\n]{0,24}?"
    r"\b((?:Cr|Fe|Co|Ni|Cu|Mo|Ag)[\s_-]?K[\s_-]?(?:α|alpha|a|β|beta|b)[\s_-]?(?:1(?![.\d]))?)",
    re.IGNORECASE,
)
_USED = re.compile(
    r"(?:used|intended|wave\s?type)[^\n]{0,30}?[\s,;:=](k[\s_-]?(?:alpha|beta|[αβ]|[ab])[\s_-]?1?)",
    re.IGNORECASE,
)


def heading_wavelength(
    head: str, source: str = "the file's heading"
) -> tuple[Wavelength | None, list[str]]:
    """The wavelength that a heading states, and why one that it seems to state is not taken.

    Args:
        head: Lines of text; what stands in them is read in m, nm, pm, Å, keV or eV. A number
            without a unit is in Å if it can be (in m below 10⁻⁸).
        source: For messages.
    """
    found: dict[str, list[float]] = {}
    doubts: list[str] = []
    for line in head.splitlines():
        line = line[:1000].strip("#;!*'\"/% \t")
        for match in _WAVELENGTH.finditer(line):
            value, doubt = _in_angstrom(match["value"], match["end"] or match["unit"])
            if value is None:
                doubts.append(f"the heading's {match[0].strip()[:60]!r} is not used: {doubt}")
                continue
            found.setdefault(_kind(match["before"] or "", match["after"] or ""), []).append(value)
        for match in _ENERGY.finditer(line):
            unit = (match["end"] or match["unit"] or "").lower()
            energy = _float(match["value"]) * (1e-3 if unit == "ev" else 1.0)
            if unit and energy > 0 and _USUAL[0] <= HC / energy <= _USUAL[1]:
                found.setdefault("energy", []).append(HC / energy)
    wavelength = _chosen(found, head, source, doubts)
    if wavelength is None and (radiation := _NAMED_RADIATION.search(head)):
        wavelength = _named(radiation[1].strip(), source)
    return wavelength, doubts if wavelength is None else []


def _chosen(
    found: dict[str, list[float]], head: str, source: str, doubts: list[str]
) -> Wavelength | None:
    for kind, values in found.items():
        if max(values) > 1.001 * min(values):
            listed = ", ".join(f"{value:g}" for value in values)
            doubts.append(f"the heading states several wavelengths: {listed} Å ({kind})")
            return None
    plain, alpha1, alpha2, beta = (
        found.get(kind, [None])[0] for kind in ("plain", "alpha1", "alpha2", "beta")
    )
    used = _USED.search(head)
    line = used_line(used[1]) if used else None
    if beta and ((plain and math.isclose(plain, beta, rel_tol=1e-3)) or line == "beta"):
        return Wavelength(((beta, 1.0),), source)
    if line == "beta" and plain is None:
        return tube_lines(alpha1, alpha2, beta, None, "beta", source)
    if alpha1 and (plain is None or abs(plain / alpha1 - 1.0) < 5e-3):
        ratio = _RATIO.search(head)
        return Wavelength.doublet(alpha1, alpha2, float(ratio[1]) if ratio else None, source)
    energy = found.get("energy", [None])[0]
    if plain and energy and abs(plain / energy - 1.0) > 5e-3:
        doubts.append(f"the heading's wavelength, {plain:g} Å, is not its energy's, {energy:g} Å")
        return None
    value = plain or energy
    return Wavelength(((value, 1.0),), source) if value else None


def _kind(before: str, after: str) -> str:
    word = re.sub(r"[\s_-]", "", (before + after).lower())
    if "beta" in word or "β" in word or word.startswith("kb") or word.endswith("3"):
        return "beta"
    if word.endswith("1"):
        return "alpha1"
    return "alpha2" if word.endswith("2") else "plain"


def _float(text: str) -> float:
    return float(text.replace(",", ".").replace("d", "e").replace("D", "e"))


def _in_angstrom(text: str, unit: str | None) -> tuple[float | None, str]:
    """A length in Å, or None and why it is none."""
    value = _float(text)
    if unit is None and 0 < value < 1e-8:
        unit = "m"
    scaled = value * _UNITS.get(unit or "", 1.0)
    if not _USUAL[0] <= scaled <= _USUAL[1]:
        return None, f"{scaled:g} Å is not a diffractometer's; give --wavelength"
    lines = [x for pair in ANODES.values() for x in (*pair, (2 * pair[0] + pair[1]) / 3)]
    if unit is None and any(abs(10.0 * scaled / x - 1.0) < 1e-3 for x in lines):
        return None, "it has no unit and may be in nm; give --wavelength"
    return scaled, ""
