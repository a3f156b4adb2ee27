"""Chemical formulas as text, read without pymatgen.

What one notation writes as a decimal, another writes as a hydrate: `O4.2H2O` is four oxygens and
two waters in CaSO4.2H2O. Points are read as dots where only that makes sense, refused where both
do, and are decimals elsewhere (`_separate_points`).
"""

from __future__ import annotations

import math
import re
import unicodedata

import numpy as np

from datamodules.elements import ATOMIC_NUMBERS

_LONGEST = 1000
"""Characters; longer text is no formula."""
_LARGEST_AMOUNT = 1e6
_SMALLEST_FRACTION = 1e-9

_NUMBER = r"(?:\d+\.?\d*|\.\d+)"
_AMOUNT = rf"(?:\d+/\d+|{_NUMBER})"
_TOKEN = re.compile(
    rf"(?P<symbol>[A-Z][a-z]?)|(?P<number>{_AMOUNT}|\((?P<inner>{_AMOUNT})\))"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])"
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
#: Hydrogen's isotopes are hydrogen, as in stores.
_SYMBOLS = ATOMIC_NUMBERS | {"D": ATOMIC_NUMBERS["H"], "T": ATOMIC_NUMBERS["H"]}

#: Signs between the parts of an adduct, such as the water of CuSO4·5H2O: middle dots of several
#: scripts, bullets, crosses and asterisks.
_DOTS = "·•∙⋅‧・･●◦∘⸱⸳᛫˙⦁*∗⁎×✕"
_SLASHES = str.maketrans("⁄∕−–", "//--")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_CHARGE = re.compile(rf"[{_SUPERSCRIPTS}]*[⁺⁻][{_SUPERSCRIPTS}]*|\^\{{?\d*[+−-]\}}?")
_WATER = r"(?:[HDT]2O|\([HDT]2O\)|OH2|\(OH2\))"
#: `CuSO4 x 5H2O`: the letter as a cross.
_CROSS = re.compile(rf"\s*[xX]\s*(?={_AMOUNT}\s*{_WATER})")
_AFTER_ATOM = r"(?<=[A-Za-z0-9)\]}])"
#: Points that can be nothing but dots: before a symbol or bracket, and before 0.5 or .5.
_POINTS_THAT_ARE_DOTS = re.compile(rf"{_AFTER_ATOM}\.(?=[A-Z(\[{{]|0?\.\d)")
_HYDRATE = re.compile(
    rf"(?P<before>.*?(?P<amount>\d*))\.(?P<factor>\d+(?:/\d+)?)(?P<water>{_WATER})"
)
_OXIDE = re.compile(r"\d*[A-Z][a-z]?\d*O\d*")
_MOST_WATER = 36
"""Molecules in a formula unit: ettringite has 26 or 32."""
_OXIDATION_STATE = re.compile(r"\((?:I{2,3}|I[VX]|VI{1,3}|(?:I|V)(?=\)(?!\d)))\)")


def parse_formula(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Elements and fractions of a formula.

    Args:
        text: Such as `NaCl`, `Ca3(PO4)2`, `Li0.5CoO2`, `Na2/3CoO2`, `Fe₂O₃`, or an adduct such as
            `CuSO4·5H2O`, `CuSO4.5H2O`, `CuSO4*5H2O` and `CuSO4 5H2O`. D and T are hydrogen.

    Returns:
        Atomic numbers, ascending, shape (n,), uint8, and atomic fractions, (n,), float32, sum 1.

    Raises:
        ValueError: if the formula does not parse, can be read in two ways, or names an unknown
            element, saying what.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"formula {text[:40]!r}…: {len(text)} characters; no formula is as long")
    amounts: dict[int, float] = {}
    for part in _parts(text):
        match = re.match(_AMOUNT, part)
        factor = _value(match.group(), text) if match else 1.0
        for z, amount in _parse(part[match.end() :] if match else part, text).items():
            amounts[z] = amounts.get(z, 0.0) + factor * amount
    total = sum(amounts.values())
    if not math.isfinite(total):
        raise ValueError(f"formula {text!r}: the amounts are not finite")
    amounts = {z: amount for z, amount in amounts.items() if amount > 0}
    if not amounts:
        raise ValueError(f"formula {text!r}: all amounts are zero")
    if min(amounts.values()) < _SMALLEST_FRACTION * total:
        raise ValueError(f"formula {text!r}: amounts differ by more than any composition's")
    elements = np.array(sorted(amounts), np.uint8)
    counts = np.array([amounts[int(z)] for z in elements])
    return elements, (counts / counts.sum()).astype(np.float32)


def _parts(text: str) -> list[str]:
    """The parts of an adduct, each perhaps with a factor before it, in plain ASCII."""
    plain = _plain(text)
    if match := _OXIDATION_STATE.search(plain):
        raise ValueError(
            f"formula {text!r}: {match.group()} is an oxidation state or an element; leave it out"
        )
    plain = re.sub(r"\s*·\s*|(?<=\S)\s*\.\s+(?=\S)", "·", _CROSS.sub("·", plain.strip()))
    plain = _separate_blanks(plain, text)
    return [piece for part in plain.split("·") for piece in _separate_points(part, text)]


def _plain(text: str) -> str:
    """Digits of any script and place as ASCII; charges and invisible characters off."""
    text = re.sub(r"</?su[bp]>|\$", "", text)
    text = re.sub(r"_\{([^{}]*)\}|_(?=\d)", r"\1", text)
    text = _CHARGE.sub("", text)
    out: list[str] = []
    for letter in text:
        if letter in _SUPERSCRIPTS:
            raise ValueError(
                f"formula {text!r}: superscripts are charges or isotopes; write amounts as plain "
                "digits and leave the others out"
            )
        if letter in _DOTS:
            out.append("·")
        elif (digit := unicodedata.digit(letter, None)) is not None:
            out.append(str(digit))
        elif unicodedata.decomposition(letter).startswith("<fraction>"):
            # ½, also as 2½.
            value = f"{unicodedata.numeric(letter):.9f}".rstrip("0")
            out.append(value[1:] if out and out[-1].isdigit() else value)
        elif unicodedata.category(letter) in ("Nl", "No"):
            raise ValueError(f"formula {text!r}: {letter!r} is no amount; write plain digits")
        elif unicodedata.category(letter) != "Cf":
            out.append(unicodedata.normalize("NFKC", letter).translate(_SLASHES))
    return "".join(out)


def _separate_blanks(plain: str, text: str) -> str:
    """Blanks taken out; those that stand for the dot of a hydrate replaced by one.

    Raises:
        ValueError: if a number after a blank can belong to what is before it or to what is after.
    """
    words = plain.split()
    if not words:
        return ""
    out = words[0]
    for before, word, after in zip(words, words[1:], [*words[2:], ""], strict=False):
        number = re.match(_AMOUNT, word)
        if number is None:
            out += word
            continue
        detached = number.end() == len(word)
        rest = after if detached else word[number.end() :]
        if before[-1].isalpha() or before[-1] in ")]}":
            water = re.match(rf"{_WATER}(?:·|$)", rest) is not None
            # `Fe 2 O 3`: an amount by itself, of a symbol or bracket by itself.
            alone = re.fullmatch("[A-Z][a-z]?", before) or before[-1] in ")]}"
            if detached and alone and not water:
                out += word
                continue
            if not detached and water:
                out += "·" + word
                continue
        elif rest and before[-1].isdigit() and word[0] != ".":
            # The amount before it has its number already.
            out += "·" + word
            continue
        raise ValueError(
            f"formula {text!r}: ambiguous, {number.group()} can belong to {before!r} or to what "
            f"follows; write {before}{number.group()} without the blank, or {before}·{word}"
        )
    return out


def _separate_points(part: str, text: str) -> list[str]:
    """Splits a part at the points that are dots.

    Dots are: points before a letter, bracket or another point (O4.0.5H2O); before water with a
    whole factor (O4.2H2O); and where all that results are oxides (CaO.2Al2O3). Others are decimal
    points, unless they could part compounds of whole amounts as well.

    Raises:
        ValueError: if both readings make sense.
    """
    pieces = _POINTS_THAT_ARE_DOTS.sub("·", part).split("·")
    return [item for piece in pieces for item in _separate_decimal(piece, text)]


def _separate_decimal(piece: str, text: str) -> list[str]:
    """The same for a part whose points stand before digits."""
    items = re.split(rf"{_AFTER_ATOM}\.", piece)
    if match := re.search(r"\.\d+\.\d", piece):
        split = [piece[: match.start()], piece[match.start() + 1 :]]
        raise ValueError(f"formula {text!r}: ambiguous points in {piece!r}; {_mend(split)}")
    match = _HYDRATE.fullmatch(piece)
    if match and re.search("[A-Z]", match["before"]) and match["amount"] not in ("0", "00"):
        factor = match["factor"]
        if match["amount"] == "1" or factor[0] == "0" or int(factor.split("/")[0]) > _MOST_WATER:
            raise ValueError(
                f"formula {text!r}: ambiguous, {match['amount']}.{factor} is an amount or parts "
                f"the water from the rest; {_mend(items)}"
            )
        return [*_separate_decimal(match["before"], text), factor + match["water"]]
    decimal = (
        len(items) == 1
        # An amount at the end (O6.93), a factor (2.5Al2O3), or amounts that are never written
        # before a dot (0.5, 1.5).
        or not all(re.search("[A-Z]", item) for item in items)
        or re.search(r"(?<!\d)0*[01]\.", piece)
    )
    if decimal:
        return [piece]
    if all(_OXIDE.fullmatch(item) for item in items):
        return items
    if all(len(set(re.findall("[A-Z][a-z]?", item))) > 1 for item in items):
        raise ValueError(
            f"formula {text!r}: ambiguous, the point in {piece!r} is decimal or parts two "
            f"compounds; {_mend(items)}"
        )
    return [piece]


def _mend(items: list[str]) -> str:
    return f"write {'·'.join(items)}, or amounts as whole numbers or fractions such as 21/5"


def _value(token: str, text: str) -> float:
    """An amount: a number, or a fraction such as 2/3."""
    numerator, slash, denominator = token.partition("/")
    bottom = float(denominator) if slash else 1.0
    value = float(numerator) / bottom if bottom else math.inf
    if not value <= _LARGEST_AMOUNT:
        raise ValueError(f"formula {text!r}: the amount {token[:20]} is not finite or too large")
    return value


def whole_amounts(fractions: np.ndarray, most: int = 12) -> np.ndarray | None:
    """Smallest whole numbers in the proportions of some fractions, shape (n,), float64.

    Args:
        fractions: Atomic fractions, (n,).
        most: Atoms of the rarest element at most.

    Returns:
        None if there are no such numbers within 2 %.
    """
    for rarest in range(1, most + 1):
        amounts = np.asarray(fractions, np.float64) / np.min(fractions) * rarest
        if np.abs(amounts - amounts.round()).max() < 0.02:
            whole: np.ndarray = amounts.round()
            return whole
    return None


def _parse(part: str, text: str) -> dict[int, float]:
    """Amounts by atomic number of a formula without dots; `text` is for messages."""
    if not part:
        raise ValueError(f"formula {text!r}: empty")
    stack: list[dict[int, float]] = [{}]
    brackets: list[str] = []
    last: dict[int, float] | None = None
    position = 0
    while position < len(part):
        match = _TOKEN.match(part, position)
        if match is None:
            hint = "; symbols begin with a capital letter" if part[position].islower() else ""
            raise ValueError(f"formula {text!r}: cannot read {part[position:]!r}{hint}")
        position, token = match.end(), match.group()
        if match["number"]:
            if last is None:
                raise ValueError(f"formula {text!r}: {token} follows nothing it could multiply")
            factor = _value(match["inner"] or token, text)
            # The group counted once when it was closed; the number adds the rest.
            for z, amount in last.items():
                stack[-1][z] += (factor - 1.0) * amount
            last = None
        elif match["symbol"]:
            if token not in _SYMBOLS:
                raise ValueError(f"formula {text!r}: unknown element {token!r}")
            last = {_SYMBOLS[token]: 1.0}
            _add(stack[-1], last)
        elif match["open"]:
            brackets.append(_CLOSING[token])
            stack.append({})
            last = None
        else:
            if not brackets or brackets.pop() != token:
                raise ValueError(f"formula {text!r}: {token!r} closes no bracket")
            last = stack.pop()
            if not last:
                raise ValueError(f"formula {text!r}: empty brackets")
            _add(stack[-1], last)
    if brackets:
        raise ValueError(f"formula {text!r}: {brackets[-1]!r} is missing")
    return stack[0]


def _add(to: dict[int, float], amounts: dict[int, float]) -> None:
    for z, amount in amounts.items():
        to[z] = to.get(z, 0.0) + amount
