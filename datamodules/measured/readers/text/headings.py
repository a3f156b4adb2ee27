"""What a heading says: the columns' quantities and units, times, temperatures, and the probe."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from datamodules.measured.errors import PatternError
from datamodules.measured.scan import condition

_COMMENT = "#;!*'\"%/ \t\ufeff"
_OTHER_PROBES = re.compile(
    r"\b(neutrons?|time[\s-]of[\s-]flight|t\.?o\.?f\.?|electron[\s-]diffraction|SAED)\b",
    re.IGNORECASE,
)
_X_RAYS = re.compile(r"x[\s-]?ray|synchrotron|\bK[\s-]?(?:alpha|α)", re.IGNORECASE)
_SCAN_AXIS = re.compile(
    r"scan[\s_]?(?:axis|type)[\s\"':=,;]+(?P<axis>[^\"'\n,;]{1,40})", re.IGNORECASE
)
_OTHER_AXES = re.compile(
    r"^\s*(omega|phi|chi|psi|rocking|theta|tilt|z|x|y)\s*(scan)?\s*$", re.IGNORECASE
)

#: Quantities of columns by their names without signs and units; the first that fits.
_QUANTITIES: tuple[tuple[str, str], ...] = (
    ("transformed", r"\b(log|log10|ln|sqrt|root)"),
    ("flight", r"\btof\b|time of flight|^energy|^channel|^e kev"),
    ("error", r"esd|\berr|error|sigma|σ|uncert|\bstd|deviation|^sig\b|^s$|^di$|^dy$|^fehler"),
    ("time", r"time|zeit|dwell|exposure|duration|^seconds?$|^secs?$|^t s$|時間|时间"),
    ("series", r"^-?\d+(\.\d+)? ?(k|c|°c|gpa|mpa|bar|min|h|s)$|^rt$|^room temp"),
    ("temperature", r"temp|^t (k|c|°c)$|kelvin|celsius"),
    ("pressure", r"pressure|^p (k|m|g)?pa$|^p bar$"),
    ("monitor", r"monitor|^i ?0$|^io$|ion chamber|ring current|beam current"),
    ("other", r"\b(y|i)?calc?\w*\b|\bfit\b|model|residu|differen|^diff\b|obs calc|hkl|tick"),
    ("two_theta", r"(2|two) ?(th|θ|t\b)|tth\b|t theta|twoth"),
    ("intensity", r"(back\w*|bkg|bg) ?(sub|corr|remov|free)|(minus|without) (back|bkg)"),
    ("other", r"back\w*|bkg|\bbg\b|untergrund"),
    ("rate", r"cps|per s|(counts?|cts|impulse?) s( 1)?$|(counts?|cts) sec|count ?rate|^rate"),
    ("normalised", r"norm|relative|\brel\b|i i ?(0|max)|int\w* (percent|%)|scaled"),
    (
        "intensity",
        r"int\w*|count|cts|^i$|^i |^y\b|yobs|signal|\bobs|detector|psd|^net|^raw|impuls"
        r"|強度|强度|计数",
    ),
    ("two_theta", r"angle|^pos\b|position|winkel|^deg(rees)?$"),
    ("theta", r"^(theta|th|θ)\b"),
    ("q", r"^q\b|momentum|scattering vector"),
    ("d", r"^d\b|d ?spacing|d ?value|interplanar|netzebene"),
)


def check_probe(head: str, what: str) -> None:
    """Refuses headings that speak of neutrons or electrons, and not of X-rays.

    Raises:
        PatternError: naming the word.
    """
    match = _OTHER_PROBES.search(head)
    if match and not _X_RAYS.search(head):
        raise PatternError(
            f"{what}: the heading speaks of {match[0]!r}; give a pattern of X-rays over 2θ (if it "
            "is one, take the word out)"
        )


def check_axis(head: str, what: str) -> None:
    """Refuses headings that name a scan of something else than 2θ.

    Raises:
        PatternError: naming it.
    """
    for match in _SCAN_AXIS.finditer(head):
        if _OTHER_AXES.match(match["axis"].strip()):
            raise PatternError(
                f"{what}: the scan moves {match['axis'].strip()}, not 2θ; it is no powder pattern"
            )


def quantity(name: str) -> str | None:
    """What a column holds by its name.

    Returns:
        "two_theta", "theta", "q", "d", "intensity" (counts), "rate" (per second), "normalised",
        "error", "time", "temperature", "pressure", "monitor", "series" (intensity named by a
        temperature or time), "transformed", "flight" or "other"; None for names that say nothing.
    """
    plain = _plain(name)
    if not plain:
        return None
    if plain == "t":
        return "time" if "t" in name else "temperature"
    return next((kind for kind, pattern in _QUANTITIES if re.search(pattern, plain)), None)


def _plain(name: str) -> str:
    text = unicodedata.normalize("NFKC", name).lower().replace("ϑ", "θ").replace("Θ", "θ")
    text = text.replace("theta", "θ")
    return " ".join(re.sub(r"[^\w°%./+-]|_|(?<=\D)[./-]|[./-](?=\D|$)", " ", text).split())


def unit_of(name: str) -> float | None:
    """Factor of a column's values to degrees, Å or Å⁻¹; None if its unit is not stated."""
    text = unicodedata.normalize("NFKC", name).lower()
    if re.search(r"\bmrad\b", text):
        return 0.18 / 3.141592653589793
    if re.search(r"\brad(ians?)?\b", text):
        return 180.0 / 3.141592653589793
    if re.search(r"nm|(?<![a-z])1/n\b", text):
        inverse = re.search(r"(1\s*/\s*nm)|nm\s*\^?\s*[({]*\s*[-−]\s*1|nm\^-1|nm\W*minus", text)
        return 0.1 if inverse else 10.0
    if re.search(r"pm\b", text):
        return 0.01
    if re.search(r"deg|°|å|ang|\ba\b|(?<=[\W_])a(?=[\W_]|$)", text):
        return 1.0
    return None


_UNIT_ALONE = re.compile(r"\W*(deg|degrees?|°|s|sec|cts|counts?|cps|a\.?u\.?|%)\W*", re.IGNORECASE)


def names_of_columns(heading: Sequence[str], width: int, separator: str) -> list[str] | None:
    """The names above the columns, with what stands in a line of units below them.

    Args:
        heading: The lines before the data.
        width: Number of columns.
        separator: What stands between them.

    Returns:
        Names, (width,); None if no line of the last six has as many that say anything.
    """
    lines = [
        [
            names
            for names in _ways_to_split(line.strip(_COMMENT)[:2000], separator)
            if len(names) == width
        ]
        for line in heading[-6:]
    ]
    scores = [max((_score(names) for names in ways), default=0.0) for ways in lines]
    if not scores or not max(scores) > 0.0:
        return None
    best = max(range(len(lines)), key=lambda i: (scores[i], i))
    names = max(lines[best], key=_score)
    units = next((below[0] for below in reversed(lines[best + 1 :]) if below), None)
    if units is None:
        return names
    return [f"{name} ({unit})" for name, unit in zip(names, units, strict=True)]


def _score(names: list[str]) -> float:
    """How much some names say: an axis or intensity at least, units by themselves little."""
    kinds = [quantity(name) for name in names]
    # A key and its value are no names.
    if len(names) == 2 and re.fullmatch(r"[+-]?[\d.,]+(e[+-]?\d+)?", names[1], re.IGNORECASE):
        return 0.0
    if not set(kinds) & {
        *("two_theta", "theta", "q", "d", "flight"),
        *("intensity", "rate", "normalised", "series"),
    }:
        return 0.0
    return sum(
        0.1 if _UNIT_ALONE.fullmatch(name) else 1.0
        for name, kind in zip(names, kinds, strict=True)
        if kind is not None
    )


def _ways_to_split(line: str, separator: str) -> list[list[str]]:
    ways = [
        [
            name.strip(" \"'")
            for name in (line.split() if separator == " " else line.split(separator))
        ]
    ]
    ways.append([name.strip(" \"'") for name in re.split(r"\t|\s{2,}|;|\|", line) if name.strip()])
    ways.append([name.strip(" \"'") for name in line.split(",")])
    # A name and its unit, `2Theta (deg)  Count time [s]`.
    ways.append(re.findall(r"[^\s,;([]+(?:\s*[(\[][^)\]]*[)\]])?", line))
    # Words one by one, those that belong together joined: `Count time`, `2 Theta`.
    joined = re.sub(
        r"(?i)\b(2|two|count(?:ing)?|step|live|time|time per|net|raw|rel\.?|d|q|i)\s+"
        r"(theta|time|per step|step|int\w*|spacing|counts?|obs|calc|norm\w*)",
        r"\1_\2",
        re.sub(r"\s*[(\[][^)\]]*[)\]]", "", line),
    )
    ways.append(joined.split())
    return ways


_SECONDS = re.compile(
    r"(?:time[\s_]?(?:per|/)[\s_]?(?:step|point)|step[\s_]?time|count(?:ing)?[\s_]?time|"
    r"dwell[\s_]?time|exposure(?:[\s_]?time)?|messzeit|zeit/schritt)[^0-9\n]{0,20}?"
    r"(?P<value>\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*[\[(]?(?P<unit>ms|min|s)?\b",
    re.IGNORECASE,
)
_SPEED = re.compile(
    r"(?:scan[\s_]?)?(?:speed|rate)(?!_?unit)[^0-9\n]{0,20}?(?P<value>\d+(?:\.\d+)?)\s*"
    r"(?P<unit>(?:deg\w*|°)\s*/\s*(?:min|s)\w*|s(?:ec)?/(?:step|point))?",
    re.IGNORECASE,
)
_SPEED_UNIT = re.compile(
    r"speed_?\s?unit\W+((?:deg\w*|°)\s*/\s*(?:min|s)\w*|sec\w*)", re.IGNORECASE
)
_CONDITION = re.compile(
    r"\b(?P<name>(?i:temp(?:erature)?|sample[\s_]temp\w*|pressure)|T)\b[^0-9\n+-]{0,12}?"
    r"(?P<value>[+-]?\d+(?:\.\d+)?)\s*(?P<unit>K|°\s?C|℃|C|[GMk]?Pa|k?bar)\b",
)
_RATE = re.compile(
    r"(?:y_?unit|intensity[\s_]unit)\W+(?:cps|counts?/s)|\[\s*cps\s*\]", re.IGNORECASE
)


def seconds_of(head: str, step: float) -> float | None:
    """Counting time of a point that a heading states, s.

    Args:
        head: Lines of text.
        step: Degrees, for speeds.
    """
    if match := _SECONDS.search(head):
        scale = {"ms": 1e-3, "min": 60.0}.get((match["unit"] or "").lower(), 1.0)
        value = float(match["value"]) * scale
        return value if 0 < value < 1e9 else None
    if match := _SPEED.search(head):
        unit = match["unit"] or (found[1] if (found := _SPEED_UNIT.search(head)) else "")
        speed, unit = float(match["value"]), re.sub(r"\s", "", unit.lower())
        if not 0 < speed < 1e9:
            return None
        if "/min" in unit:
            return 60.0 * step / speed
        if unit.startswith("s"):
            return speed
        if "/s" in unit:
            return step / speed
    return None


def conditions_of(head: str) -> dict[str, float]:
    """Temperature and pressure that a heading states with their units."""
    found: dict[str, float] = {}
    for match in _CONDITION.finditer(head):
        name = "temperature" if match["name"] == "T" else match["name"]
        key, value = condition(name, float(match["value"]), match["unit"])
        found.setdefault(key, value)
    return found


def states_rate(head: str) -> bool:
    """Whether a heading says that intensities are per second."""
    return _RATE.search(head) is not None
