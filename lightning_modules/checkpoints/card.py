"""The card of a model: what it was made from, how well it does and what it is not for.

All figures are those that the run wrote when it was tested; nothing is filled in by hand but the
notes that are appended.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from datamodules.store.manifest import Manifest

#: Inputs as the tables of errors name them, and as the card does.
GIVEN = {"composition": "composition", "xrd": "pattern", "both": "both"}


def card(
    name: str, described: Mapping[str, Any], weights: int, run: Path | None, notes: str
) -> str:
    """Write a model's card, as Markdown.

    Args:
        name: Of the model.
        described: Its description, as in `model.json`.
        weights: How many numbers it has.
        run: The folder of its run: `config.yaml` says the data, `errors.test.csv` and
            `metrics.test.json` the errors, `measured.jsonl` (lines of `benchmarks/measured.py`)
            what it makes of measured patterns. None, or without these: they are left out.
        notes: Markdown that is appended: sources, licences, uses that are not meant.
    """
    config = _yaml(run / "config.yaml") if run else {}
    parts = [
        f"# {name}",
        "*Written by `xxact export` from what the run recorded.*",
        _what(described, weights),
        _data(config, described),
        _split(described),
    ]
    if run:
        parts += [_errors(run), _coverage(run), _retrieval(run)]
    parts += [_evidence(described), _measured(run) if run else "", notes.strip()]
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


def _data(config: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    data = config.get("data", {})
    if not data:
        return ""
    rows = []
    for place in data.get("stores", []):
        folder = Path(place)
        try:
            manifest = Manifest.load(folder)
        except (OSError, ValueError):
            rows.append([folder.name, "", "", ""])
            continue
        source = manifest.source
        rows.append(
            [
                folder.name,
                f"{manifest.counts['written']:,}",
                str(source.get("licence", "")),
                str(source.get("citation", "")),
            ]
        )
    steps = described.get("steps", 0)
    seen = steps * data.get("global_batch_size", 0)
    return (
        "## Training data\n\n"
        + _table(["store", "materials, all splits", "licence", "citation"], rows)
        + f"\n\n{steps:,} steps of {data.get('global_batch_size')} materials "
        f"({seen:,} in all), patterns changed at random: "
        f"{'yes' if data.get('augment') else 'no'}."
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


def _errors(run: Path) -> str:
    try:
        with (run / "errors.test.csv").open(newline="", encoding="utf-8") as file:
            found = {
                (r["target"], r["given"], r["by"], r["group"]): r for r in csv.DictReader(file)
            }
    except OSError:
        return ""
    rows = []
    for target in dict.fromkeys(key[0] for key in found):
        for given, shown in GIVEN.items():
            every = found.get((target, given, "all", "all"))
            if every is None:
                continue

            def of(row: Mapping[str, str] | None, key: str) -> str:
                return f"{float(row[key]):.3g}" if row and row.get(key) else "–"

            rows.append(
                [
                    target,
                    shown,
                    f"{float(every['n']):.0f}",
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


def _coverage(run: Path) -> str:
    try:
        found = json.loads((run / "metrics.test.json").read_bytes())
    except (OSError, ValueError):
        return ""
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
                    f"{value:.3f} [{found[key + '_low']:.3f}, {found[key + '_high']:.3f}]",
                    f"{found[stem + 'width']:.3g}",
                ]
            )
    if not rows:
        return ""
    head = ["target", "given", "share of formulas whose labels it holds", "mean width"]
    return "## Intervals on held-out formulas\n\n" + _table(head, rows)


def _retrieval(run: Path) -> str:
    try:
        found = json.loads((run / "metrics.test.json").read_bytes())
    except (OSError, ValueError):
        return ""
    rows = []
    for way, shown in (
        ("xrd_to_composition", "composition of a pattern"),
        ("composition_to_xrd", "pattern of a composition"),
    ):
        shares = [found.get(f"test/alignment/random/{way}/recall_at_{n}") for n in (1, 5, 10)]
        if None not in shares:
            rows.append([shown, *(f"{share:.3f}" for share in shares)])
    if not rows:
        return ""
    pool = found.get("test/alignment/random/pool_size", 0)
    return (
        f"## Retrieval on held-out formulas\n\nSimulated patterns; the right one among {pool:.0f} "
        "of all stores, share of the materials.\n\n"
        + _table(["searched", "first", "first 5", "first 10"], rows)
    )


def _measured(run: Path) -> str:
    try:
        lines = (run / "measured.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return ""
    rows = [
        [
            str(line["formula"]),
            f"{line['formulas_more_similar'] + 1:,} of {line['rank_of']:,}",
            f"{line['fwhm']:.2f}°",
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


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
