"""The card of a model: what it was made from, how well it does and what it is not for.

All figures are those that the run wrote when it was tested; nothing is filled in by hand but the
notes that are appended.
"""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from datamodules.store.manifest import Manifest
from lightning_modules.checkpoints.cards.told import ERRORS, GIVEN

#: What is told of the run's tables of errors, beside `ERRORS`, and of its metrics.
_GROUPS = (("all", "all"), ("system", "in training"), ("system", "new"))
_METRICS = re.compile(
    "/coverage(_low|_high)?$|/width$|/alignment/random/(pool_size$|.*/recall_at_)"
)
_MEASURED = ("formula", "formulas_more_similar", "rank_of", "fwhm")


def record(run: Path) -> dict[str, Any]:
    """What a run recorded of itself, as far as its model's card tells it.

    It goes into the model's description, so that a model that is exported again has the same card.

    Args:
        run: The folder of the run: `config.yaml` says the data, `errors.test.csv` and
            `metrics.test.json` the errors, `measured.jsonl` (lines of `benchmarks/measured.py`)
            what it makes of measured patterns. What is not there is left out.

    Returns:
        Plain values; numbers that are not finite are None.
    """
    found = {
        "data": _data_of(_yaml(run / "config.yaml").get("data")),
        "errors": _errors_of(run),
        "metrics": _metrics_of(run),
        "measured": _measured_of(run),
    }
    return {name: value for name, value in found.items() if value}


def _data_of(data: object) -> dict[str, Any]:
    if not isinstance(data, dict):
        return {}
    stores: list[dict[str, Any]] = []
    places = data.get("stores")
    for place in places if isinstance(places, list) else []:
        folder = Path(str(place))
        try:
            manifest = Manifest.load(folder)
        except (OSError, ValueError):
            stores.append({"name": folder.name})
            continue
        told = {name: str(manifest.source.get(name, "")) for name in ("licence", "citation")}
        stores.append({"name": folder.name, "materials": manifest.counts["written"]} | told)
    return {
        "stores": stores,
        "batch": data.get("global_batch_size", 0),
        "augment": bool(data.get("augment")),
    }


def _errors_of(run: Path) -> list[dict[str, str]]:
    try:
        with (run / "errors.test.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return []
    return [
        {name: row.get(name) or "" for name in ERRORS}
        for row in rows
        if (row.get("by"), row.get("group")) in _GROUPS
    ]


def _metrics_of(run: Path) -> dict[str, float | None]:
    try:
        found = json.loads((run / "metrics.test.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return {
        key: value if math.isfinite(value) else None
        for key, value in (found.items() if isinstance(found, dict) else ())
        if _METRICS.search(key) and isinstance(value, int | float)
    }


def _measured_of(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / "measured.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return []
    return [
        {name: line.get(name) for name in _MEASURED} for line in found if isinstance(line, dict)
    ]


def card(name: str, described: Mapping[str, Any], weights: int) -> str:
    """Write a model's card, as Markdown.

    Args:
        name: Of the model.
        described: Its description, as in `model.json`: with what `record` found under `recorded`,
            and under `notes` Markdown that is appended (sources, licences, uses that are not
            meant).
        weights: How many numbers it has.
    """
    recorded = described.get("recorded", {})
    metrics = recorded.get("metrics", {})
    parts = [
        f"# {name}",
        "*Written by `xxact export` from what the run recorded.*",
        _what(described, weights),
        _data(recorded.get("data", {}), described),
        _split(described),
        _errors(recorded.get("errors", [])),
        _coverage(metrics),
        _retrieval(metrics),
        _evidence(described),
        _measured(recorded.get("measured", [])),
        described.get("notes", "").strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(described: Mapping[str, Any], weights: int) -> str:
    arguments = described["arguments"]
    lines = [
        f"- Task: `{described['task']}`, {weights:,} numbers, kept as {described['precision']}."
    ]
    targets = _targets(described)
    if targets:
        given = " or ".join(GIVEN[m] for m in arguments.get("modalities", []))
        both = ", or both" if len(arguments.get("modalities", [])) > 1 else ""
        shown = ", ".join(f"{n} ({unit})" if unit else n for n, unit in targets.items())
        lines.append(f"- Predicts, from {given}{both}: {shown}.")
        if "confidence" in arguments:
            lines.append(f"- Intervals: {100 * arguments['confidence']:g} %, split conformal.")
    grid = arguments["grid"]
    lines.append(
        f"- Patterns: 2θ {grid['two_theta_min']:g}° to {grid['two_theta_max']:g}° at a wavelength "
        f"of {grid['wavelength']:g} Å; scans of other wavelengths are converted, ranges that were "
        "not measured stay empty."
    )
    return "\n".join(lines)


def _targets(described: Mapping[str, Any]) -> dict[str, str]:
    """Units by target; none of tasks without targets."""
    names = described["arguments"].get("targets") or []
    units = described.get("values", {}).get("targets._extra_state", {}).get("units", [])
    return dict(zip(names, units, strict=True)) if len(names) == len(units) else {}


def _data(data: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    if not data:
        return ""
    rows = []
    for store in data["stores"]:
        materials = f"{store['materials']:,}" if "materials" in store else ""
        rows.append([store["name"], materials, store.get("licence", ""), store.get("citation", "")])
    steps = described.get("steps", 0)
    seen = steps * data["batch"]
    return (
        "## Training data\n\n"
        + _table(["store", "materials, all splits", "licence", "citation"], rows)
        + f"\n\n{steps:,} steps of {data['batch']} materials "
        f"({seen:,} in all), patterns changed at random: "
        f"{'yes' if data['augment'] else 'no'}."
    )


def _split(described: Mapping[str, Any]) -> str:
    split = described.get("split", {})
    if not split:
        return ""
    shares = ", ".join(
        f"{part} {100 * split[part]:g} %"
        for part in ("validation", "calibration", "test")
        if part in split
    )
    return (
        f"Held out by {split.get('by')}, by hash: {shares}. No material of these parts was trained "
        "on, in any of the stores."
    )


def _errors(recorded: Sequence[Mapping[str, str]]) -> str:
    if not recorded:
        return ""
    found = {(r["target"], r["given"], r["by"], r["group"]): r for r in recorded}
    rows = []
    for target in dict.fromkeys(key[0] for key in found):
        for given, shown in GIVEN.items():
            every = found.get((target, given, "all", "all"))
            if every is None:
                continue

            def of(row: Mapping[str, str] | None, key: str, digits: str = ".3g") -> str:
                return format(float(row[key]), digits) if row and row.get(key) else "–"

            rows.append(
                [
                    target,
                    shown,
                    of(every, "n", ".0f"),
                    of(every, "mae"),
                    of(found.get((target, given, "system", "in training")), "mae"),
                    of(found.get((target, given, "system", "new")), "mae"),
                    of(every, "within_mae"),
                    of(every, "within_pairs"),
                ]
            )
    head = ["target", "given", "n", "error", "chemical system in training", "new system",
            "of differences within formulas", "pairs ranked rightly"]  # fmt: skip
    return (
        "## Errors on held-out formulas\n\nMean absolute errors, simulated patterns.\n\n"
        + _table(head, rows)
    )


def _coverage(found: Mapping[str, float | None]) -> str:
    rows = []
    for key, value in found.items():
        _, *rest = key.split("/")
        if len(rest) == 3 and rest[2] == "coverage":
            given, target, _ = rest
            stem = key.removesuffix("coverage")
            rows.append(
                [
                    target,
                    GIVEN.get(given, given),
                    f"{_number(value)} [{_number(found.get(key + '_low'))}, "
                    f"{_number(found.get(key + '_high'))}]",
                    _number(found.get(stem + "width"), ".3g"),
                ]
            )
    if not rows:
        return ""
    head = ["target", "given", "share of formulas whose labels it holds", "mean width"]
    return "## Intervals on held-out formulas\n\n" + _table(head, rows)


def _retrieval(found: Mapping[str, float | None]) -> str:
    rows = []
    for way, shown in (
        ("xrd_to_composition", "composition of a pattern"),
        ("composition_to_xrd", "pattern of a composition"),
    ):
        shares = [found.get(f"test/alignment/random/{way}/recall_at_{n}") for n in (1, 5, 10)]
        if None not in shares:
            rows.append([shown, *map(_number, shares)])
    if not rows:
        return ""
    pool = found.get("test/alignment/random/pool_size", 0)
    return (
        "## Retrieval on held-out formulas\n\nSimulated patterns; the right one among "
        f"{_number(pool, '.0f')} of all stores, share of the materials.\n\n"
        + _table(["searched", "first", "first 5", "first 10"], rows)
    )


def _measured(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return ""
    rows = [
        [
            str(line["formula"]),
            f"{line['formulas_more_similar'] + 1:,} of {line['rank_of']:,}",
            "–" if line["fwhm"] is None else f"{line['fwhm']:.2f}°",
        ]
        for line in found
    ]
    return (
        "## Measured patterns\n\nRank of the right formula among those of a set and by the pattern "
        "alone (1 is best); few patterns are anecdotes.\n\n"
        + _table(["sample", "rank", "width of its lines"], rows)
    )


def _evidence(described: Mapping[str, Any]) -> str:
    evidence = described.get("evidence")
    if not evidence:
        return ""
    rows = [
        [kind.replace("_", " "), f"{v['auc']:.3f}", f"{v['detected']:.3f}", f"{v['n']:.0f}"]
        for kind, v in evidence["kinds"].items()
        if kind != "sound"
    ]
    sound = evidence["kinds"]["sound"]
    return (
        "## Contradictions between formula and pattern\n\nOn held-out formulas; of sound pairs "
        f"{100 * sound['flagged']:.1f} % are flagged ({100 * evidence['false_alarms']:g} % are "
        "meant to be).\n\n"
        + _table(["what is wrong", "area under the curve", "flagged", "n"], rows)
    )


def _number(value: float | None, digits: str = ".3f") -> str:
    return "–" if value is None else format(value, digits)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
