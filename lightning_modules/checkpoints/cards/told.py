"""What a card reads of a model's description, and what each part must be."""

import math
from typing import Any

#: Inputs as the tables of errors name them, and as the card does.
GIVEN = {"composition": "composition", "xrd": "pattern", "both": "both"}
#: Columns of a run's tables of errors that are told.
ERRORS = ("target", "given", "by", "group", "n", "mae", "within_mae", "within_pairs")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_figure(value: object) -> bool:
    """As a table of errors has them: a number as a text, or nothing."""
    try:
        return isinstance(value, str) and (not value or math.isfinite(float(value)))
    except ValueError:
        return False


#: What a value must be: a test, and its name.
_TEXT = (lambda value: isinstance(value, str), "text")
_NUMBER = (_is_number, "number")
_FIGURE = (_is_figure, "number")
_MISSING = (lambda value: value is None or _is_number(value), "number")
_MODE = (lambda value: isinstance(value, str) and value in GIVEN, "input that a card knows")
_NAMES = (
    lambda value: value is None or (isinstance(value, list) and {*map(type, value)} <= {str}),
    "list of names",
)
#: What a card reads of a description. A list has one kind of items; `?`: may be missing; `*`: all
#: other names.
_READ: dict[str, Any] = {
    "task": _TEXT,
    "precision": _TEXT,
    "notes?": _TEXT,
    "steps?": _NUMBER,
    "arguments": {
        "grid": {"two_theta_min": _NUMBER, "two_theta_max": _NUMBER, "wavelength": _NUMBER},
        "targets?": _NAMES,
        "modalities?": [_MODE],
        "confidence?": _NUMBER,
    },
    "values?": {"targets._extra_state?": {"units?": [_TEXT]}},
    "split?": {"validation?": _NUMBER, "calibration?": _NUMBER, "test?": _NUMBER},
    "recorded?": {
        "data?": {
            "stores": [{"name": _TEXT, "materials?": _NUMBER, "licence?": _TEXT,
                        "citation?": _TEXT}],
            "batch": _NUMBER,
            "augment": (lambda value: isinstance(value, bool), "yes or no"),
        },
        "errors?": [{**dict.fromkeys(ERRORS[:4], _TEXT),
                     **dict.fromkeys((f"{name}?" for name in ERRORS[4:]), _FIGURE)}],
        "metrics?": {"*": _MISSING},
        "measured?": [{"formula": _TEXT, "formulas_more_similar": _NUMBER, "rank_of": _NUMBER,
                       "fwhm": _MISSING}],
    },
    "evidence?": {
        "kinds": {"sound": {"flagged": _NUMBER},
                  "*": {"auc": _NUMBER, "detected": _NUMBER, "n": _NUMBER}},
        "false_alarms": _NUMBER,
    },
}  # fmt: skip


def check_told(value: Any, shape: Any = None, name: str = "") -> None:
    """Refuse a description of which no card can be written: it may be a stranger's.

    Args:
        value: The description, or a part of it.
        shape: What it must be; that of a whole description unless given.
        name: Of the part.

    Raises:
        ValueError: naming the part.
    """
    shape = _READ if shape is None else shape
    if isinstance(shape, tuple):
        test, kind = shape
        if not test(value):
            raise ValueError(f"{name} is no {kind}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{name} is no list")
        for number, item in enumerate(value):
            check_told(item, shape[0], f"{name}[{number}]")
    else:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is no table")
        named = {key.rstrip("?"): key for key in shape if key != "*"}
        for key, spelled in named.items():
            part = f"{name}.{key}".lstrip(".")
            if key in value:
                check_told(value[key], shape[spelled], part)
            elif spelled == key:
                raise ValueError(f"{part} is missing")
        for key in value.keys() - named.keys() if "*" in shape else ():
            check_told(value[key], shape["*"], f"{name}.{key}")
