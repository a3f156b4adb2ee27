import math

import pytest
import torch

from datamodules.elements import ATOMIC_NUMBERS
from lightning_modules.metrics.evaluation import errors_by_group, families, target_errors
from lightning_modules.metrics.predictions import Table
from lightning_modules.objectives.targets import Targets


def test_errors_ignore_missing_labels() -> None:
    value = torch.tensor([1.0, 2.0, 9.0, 4.0])
    target = torch.tensor([1.5, 1.0, math.nan, 6.0])
    errors = target_errors("formation_energy", value, target)
    assert errors["n"] == 3
    assert errors["mae"] == pytest.approx((0.5 + 1 + 2) / 3)
    assert errors["rmse"] == pytest.approx(math.sqrt((0.25 + 1 + 4) / 3))
    mean = (1.5 + 1 + 6) / 3
    total = sum((t - mean) ** 2 for t in (1.5, 1, 6))
    assert errors["r2"] == pytest.approx(1 - (0.25 + 1 + 4) / total)
    assert target_errors("x", value[2:3], target[2:3]) == {}


def test_band_gap_is_also_judged_on_non_metals() -> None:
    errors = target_errors("band_gap", torch.tensor([0.1, 2.0]), torch.tensor([0.0, 1.0]))
    assert errors["mae"] == pytest.approx(0.55)
    assert errors["mae_nonmetals"] == pytest.approx(1.0)


def test_hull_distance_is_also_judged_as_stable_or_not() -> None:
    target = torch.tensor([0.0, 0.0, 0.1, 0.2, 0.3])
    value = torch.tensor([0.0, 0.15, 0.1, 0.2, 0.0])
    # Pairs stable/unstable ordered rightly: 2.5 of the first, 1 of the second (ties count half).
    assert target_errors("hull_distance", value, target)["stable_auc"] == pytest.approx(3.5 / 6)
    assert "stable_auc" not in target_errors("hull_distance", value[:2], target[:2])


def test_targets_standardise_and_come_back_in_physical_units() -> None:
    targets = Targets(["formation_energy", "band_gap"], 1)
    statistics = {
        "formation_energy": {"mean": -1.0, "std": 2.0, "min": -5.0, "count": 5},
        "band_gap": {"mean": 1.0, "std": 0.5, "min": 0.0, "count": 3},
    }
    targets.fit(statistics)
    standardised = targets.standardise(torch.tensor([[1.0, math.nan]]))
    assert standardised[0, 0] == 1.0
    assert standardised[0, 1].isnan()
    back = targets.physical(torch.tensor([[1.0, -4.0]]), torch.zeros(1, 2))
    assert back.value.tolist() == [[1.0, 0.0]], "no negative band gap"
    assert back.spread.tolist() == [[2.0, 0.5]]
    targets.conformal = torch.tensor([[2.0, 2.0]])
    low, high = targets.interval(back, 0)
    assert low.tolist() == [[-3.0, 0.0]]
    assert high.tolist() == [[5.0, 1.0]]


def test_statistics_units_and_quantiles_travel_in_the_state() -> None:
    targets = Targets(["a"], 2)
    targets.fit({"a": {"mean": 3.0, "std": 2.0, "min": 1.0, "count": 5}})
    targets.units = ["eV"]
    targets.conformal.fill_(1.5)
    other = Targets(["a"], 2)
    other.load_state_dict(targets.state_dict())
    assert (other.units, float(other.mean), float(other.std)) == (["eV"], 3.0, 2.0)
    assert other.conformal.tolist() == [[1.5], [1.5]]
    other.units = ["meV"]
    with pytest.raises(ValueError, match="checkpoint predicts it in eV, the store gives it in meV"):
        other.load_state_dict(targets.state_dict())


def test_labels_below_zero_are_not_cut_off_where_training_has_them() -> None:
    """Distances from a hull that was made without the entries are negative for some."""
    targets = Targets(["hull_distance", "band_gap"], 1)
    below = {"mean": 0.1, "std": 0.1, "min": -0.3, "count": 9}
    targets.fit({"hull_distance": below, "band_gap": below | {"min": 0.0}})
    other = Targets(["hull_distance", "band_gap"], 1)
    other.load_state_dict(targets.state_dict())
    for each in (targets, other):
        each.conformal.fill_(1.0)
        prediction = each.physical(torch.tensor([[-2.0, -2.0]]), torch.zeros(1, 2))
        assert prediction.value[0].tolist() == pytest.approx([-0.1, 0.0])
        assert each.interval(prediction, 0)[0][0].tolist() == pytest.approx([-0.2, 0.0])
    assert "negative" not in Targets(["hull_distance"], 1).get_extra_state()


def test_a_target_without_labels_is_refused_and_a_constant_one_is_not_divided_by_zero() -> None:
    targets = Targets(["a"], 1)
    with pytest.raises(ValueError, match="target a: no material of the training split has a label"):
        targets.fit({"a": {"mean": 0.0, "std": 1.0, "min": 0.0, "count": 0}})
    targets.fit({"a": {"mean": 4.0, "std": 0.0, "min": 4.0, "count": 7}})
    assert targets.standardise(torch.tensor([[4.0]])).tolist() == [[0.0]]


def numbers(*symbols: str) -> list[int]:
    return [ATOMIC_NUMBERS[s] for s in symbols] + [0] * (3 - len(symbols))


def test_families_and_tables_by_group() -> None:
    elements = torch.tensor(
        [numbers("Na", "Cl"), numbers("Fe", "O"), numbers("Fe", "O", "Cl"), numbers("Ni", "Al")]
    )
    assert families(elements) == ["halide", "oxide", "oxide", "intermetallic"]
    value = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    target = torch.tensor([1.5, 2.0, 4.0, math.nan])[:, None]
    formula, system = torch.tensor([7, 8, 8, 8]), torch.tensor([-1, 2, 3, 4])
    table = Table(torch.arange(4), elements, formula, system, target, value, value)
    targets = Targets(["density"], 1)
    rows = errors_by_group(table, ["both"], targets, None, torch.tensor([3, -1]))
    found = {(r["by"], r["group"]): (r["n"], r["mae"], r["within_mae"]) for r in rows}
    assert found == {
        ("all", "all"): (3, 0.5, 0.5),
        ("elements", "2"): (2, 0.25, ""),
        ("elements", "3"): (1, 1.0, ""),
        ("family", "oxide"): (2, 0.5, 0.5),
        ("family", "halide"): (1, 0.5, ""),
        ("system", "in training"): (2, 0.75, ""),
        ("system", "new"): (1, 0.0, ""),
    }
