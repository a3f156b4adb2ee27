"""What a regression is judged by: errors, also within formulas, coverage; by groups of materials.

Shapes: N materials, E element slots, M modes (what the model was given), T targets.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

from datamodules.elements import ATOMIC_NUMBERS
from lightning_modules.metrics import within
from lightning_modules.metrics.conformal import coverage
from lightning_modules.metrics.predictions import Table
from lightning_modules.objectives.targets import Prediction, Targets

#: A compound belongs to the first family one of whose elements it contains.
FAMILIES: dict[str, tuple[str, ...]] = {
    "oxide": ("O",),
    "halide": ("F", "Cl", "Br", "I"),
    "chalcogenide": ("S", "Se", "Te"),
    "pnictide": ("N", "P", "As", "Sb", "Bi"),
    "hydride, boride, carbide or silicide": ("H", "B", "C", "Si"),
}
INTERMETALLIC = "intermetallic"


def target_errors(name: str, value_N: Tensor, target_N: Tensor) -> dict[str, float]:
    """Errors of one target in its unit; labels that are missing do not count.

    Args:
        name: The target: `band_gap` is also judged on non-metals alone (`mae_nonmetals`),
            `hull_distance` also by how well it tells stable (on the hull) from unstable
            materials (`stable_auc`).
        value_N: Predictions.
        target_N: Labels.

    Returns:
        `mae`, `rmse`, `r2` and the number of labels `n`; empty if there is no label.
    """
    there = ~target_N.isnan()
    value, target = value_N[there].double(), target_N[there].double()
    if not len(target):
        return {}
    errors = {
        "mae": float(mean_absolute_error(value, target)),
        "rmse": float(mean_squared_error(value, target, squared=False)),
        "r2": float(r2_score(value, target)) if len(target) > 1 else math.nan,
        "n": float(len(target)),
    }
    if name == "band_gap" and (target > 0).any():
        gapped = target > 0
        errors["mae_nonmetals"] = float(mean_absolute_error(value[gapped], target[gapped]))
    stable = target <= 0
    if name == "hull_distance" and 0 < int(stable.sum()) < len(stable):
        # Falls with the distance, and lies in [0, 1] as AUROC asks.
        errors["stable_auc"] = float(binary_auroc(torch.sigmoid(-value), stable.int()))
    return errors


def report(
    table: Table,
    modes: Sequence[str],
    targets: Targets,
    tolerances: Mapping[str, float] | None = None,
    draws: int = 0,
) -> dict[str, float]:
    """All errors, those within formulas too, and coverage where the model is calibrated.

    Args:
        table: Predictions of a split.
        modes: Names of the modes.
        targets: Names, units and quantiles of the targets.
        tolerances: By target, in place of the defaults of `within.pair_tolerance`.
        draws: Of the bootstrap for the figures within formulas; 0 gives them without intervals.

    Returns:
        Values by `mode/target/key` and `mode/target/within/key`, and `standardised_mae`: the first
        mode's absolute error over the standard deviation of the training labels, averaged over
        the targets.
    """
    values: dict[str, float] = {}
    relative = []
    for m, mode in enumerate(modes):
        low, high = targets.interval(Prediction(table.value[:, m], table.spread[:, m]), m)
        for t, name in enumerate(targets.names):
            errors = target_errors(name, table.value[:, m, t], table.target[:, t])
            if m == 0 and errors:
                relative.append(errors["mae"] / float(targets.std[t]))
            if not targets.conformal[m, t].isnan():
                errors |= coverage(low[:, t], high[:, t], table.target[:, t], table.formula)
            values |= {f"{mode}/{name}/{key}": value for key, value in errors.items()}
    for t, name in enumerate(targets.names):
        tolerance = within.pair_tolerance(name, targets.units[t], float(targets.std[t]), tolerances)
        for mode, found in zip(modes, within_of(table, t, tolerance, draws), strict=True):
            values |= {f"{mode}/{name}/within/{key}": value for key, value in found.items()}
    values["standardised_mae"] = sum(relative) / len(relative) if relative else math.nan
    return values


def within_of(
    table: Table, target: int, tolerance: float, draws: int = 0
) -> list[dict[str, float]]:
    """The figures within formulas of one target, for each mode; see `within.figures`."""
    return within.figures(
        table.value[:, :, target].numpy(),
        table.target[:, target].numpy(),
        table.formula.numpy(),
        table.index.numpy(),
        tolerance,
        draws,
    )


def families(elements_NE: Tensor) -> list[str]:
    """Chemical family of each material by its elements; see `FAMILIES`."""
    names = [*FAMILIES, INTERMETALLIC]
    member_NF = torch.stack(
        [
            torch.isin(elements_NE, torch.tensor([ATOMIC_NUMBERS[s] for s in symbols])).any(dim=1)
            for symbols in FAMILIES.values()
        ]
        + [torch.ones(len(elements_NE), dtype=torch.bool)],
        dim=1,
    )
    return [names[i] for i in member_NF.int().argmax(dim=1).tolist()]


#: Columns of the table of errors that stem from formulas with several structures.
WITHIN_COLUMNS = ("formulas", "structures", *within.FIGURES, "tolerance")


def errors_by_group(
    table: Table,
    modes: Sequence[str],
    targets: Targets,
    tolerances: Mapping[str, float] | None = None,
    known_systems: Tensor | None = None,
) -> list[dict[str, str | float]]:
    """Errors of groups of materials, a row for each target, mode and group.

    The groups: all; by the number of elements; by chemical family; by whether the chemical system
    was in training.

    Args:
        table: Predictions of a split.
        modes: Names of the modes.
        targets: Names and units of the targets.
        tolerances: By target, in place of the defaults of `within.pair_tolerance`.
        known_systems: Hashes of the chemical systems in training; None leaves that group out.

    Returns:
        Rows with `n`, `mae`, `rmse`, `r2`, and as `within_…` the columns of `WITHIN_COLUMNS`,
        empty where no formula of the group has several structures.
    """
    n_elements = (table.elements > 0).sum(dim=1)
    family = families(table.elements)
    groups = [("all", "all", torch.ones(len(table.index), dtype=torch.bool))]
    groups += [("elements", str(n), n_elements == n) for n in sorted(set(n_elements.tolist()))]
    groups += [
        ("family", name, torch.tensor([f == name for f in family]))
        for name in (*FAMILIES, INTERMETALLIC)
    ]
    if known_systems is not None:
        known = torch.isin(table.system, known_systems)
        groups += [("system", "in training", known), ("system", "new", ~known)]
    rows: list[dict[str, str | float]] = []
    for t, target in enumerate(targets.names):
        tolerance = within.pair_tolerance(
            target, targets.units[t], float(targets.std[t]), tolerances
        )
        inside = [within_of(table[chosen], t, tolerance) for _, _, chosen in groups]
        for m, mode in enumerate(modes):
            for (kind, group, chosen), found in zip(groups, inside, strict=True):
                errors = target_errors(target, table.value[chosen, m, t], table.target[chosen, t])
                if errors:
                    rows.append(
                        {"target": target, "given": mode, "by": kind, "group": group}
                        | {key: errors[key] for key in ("n", "mae", "rmse", "r2")}
                        | {f"within_{key}": found[m].get(key, "") for key in WITHIN_COLUMNS}
                    )
    return rows
