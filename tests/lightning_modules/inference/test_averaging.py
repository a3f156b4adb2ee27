"""Predictions averaged over compositions: sharp ones are as before, others have wider intervals."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.elements import SYMBOLS
from lightning_modules.__main__ import main
from lightning_modules.inference.averaging import average
from lightning_modules.inference.evidence import Calibration, digest, weighed
from lightning_modules.inference.prediction import Predictor
from tests.factories import make_material, make_store
from tests.measured import models


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return models.regression(tmp_path / "regression.ckpt", "formation_energy", "band_gap")


def test_one_candidate_keeps_its_interval() -> None:
    value, half = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 0.25]])
    mean, low, high = average(value, half, torch.ones(1), 0.9)
    assert mean.tolist() == [1.0, -2.0]
    assert low.tolist() == pytest.approx([0.5, -2.25], abs=1e-6)
    assert high.tolist() == pytest.approx([1.5, -1.75], abs=1e-6)


def test_the_interval_holds_its_share_of_what_the_mixture_draws() -> None:
    random = np.random.default_rng(0)
    value, half = torch.tensor([[0.0], [3.0], [3.5]]), torch.tensor([[0.5], [1.0], [0.2]])
    weight = torch.tensor([0.5, 0.3, 0.2])
    _, low, high = average(value, half, weight, 0.9)
    chosen = random.choice(3, 200_000, p=weight.double().numpy() / weight.double().sum().item())
    scale = half[:, 0].double().numpy() / math.log(10.0)
    drawn = random.laplace(value[:, 0].numpy()[chosen], scale[chosen])
    assert np.mean(drawn < low.item()) == pytest.approx(0.05, abs=0.003)
    assert np.mean(drawn > high.item()) == pytest.approx(0.05, abs=0.003)


def test_the_interval_is_never_narrower_than_the_single_ones_on_average() -> None:
    torch.manual_seed(0)
    for n in (2, 5, 60):
        value, half = torch.randn(n, 50), torch.rand(n, 50) ** 3 + 1e-3
        weight = torch.rand(n)
        weight /= weight.sum()
        mean, low, high = average(value, half, weight, 0.9)
        least = torch.maximum(weight @ half, half[0])
        assert (mean - low >= least - 1e-5).all()
        assert (high - mean >= least - 1e-5).all()


def test_missing_and_unbounded_intervals_stay_so() -> None:
    half = torch.tensor([[math.nan, math.inf, 1.0], [math.nan, 1.0, 1.0]])
    mean, low, high = average(torch.zeros(2, 3), half, torch.tensor([0.5, 0.5]), 0.9)
    assert mean.tolist() == [0.0, 0.0, 0.0]
    assert low[0].isnan()
    assert high[0].isnan()
    assert (low[1].item(), high[1].item()) == (-math.inf, math.inf)
    assert math.isfinite(low[2].item())


def test_a_sharp_composition_gives_the_formulas_answer_to_the_bit(
    checkpoint: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    make_store(store, 8)
    material = make_material(4)
    predictor = Predictor(checkpoint, [store])
    formula, percent, errors = predictor(["Fe2O3", "O 60, Fe 40 at%", "Fe 40±0, O 60±0 at%"])
    for row in (percent, errors):
        assert row | {"formula": "Fe2O3"} == formula
    shares = zip(material.elements, material.fractions.astype(float), strict=True)
    stated = ", ".join(f"{SYMBOLS[z]} {100 * share:.10f}" for z, share in shares)
    alone, both = predictor(
        [{"formula": text, "id": material.id} for text in (material.formula, f"{stated} at%")]
    )
    assert both | {"formula": material.formula} == alone


def test_errors_make_the_interval_wider_and_are_told(checkpoint: Path) -> None:
    rows = Predictor(checkpoint)(["Fe 40±0, O 60±0 at%", "Fe 40±5, O 60±5 at%", "Fe,O"])
    sharp, drawn, elements = rows
    for row in (drawn, elements):
        name = "formation_energy"
        assert row[f"{name}_low"] < row[f"{name}_predicted"] < row[f"{name}_high"]
        assert row["error"] == ""
        assert row["formation_energy_from"] == "composition"
    width = [row["formation_energy_high"] - row["formation_energy_low"] for row in rows]
    assert width[1] > width[0]
    assert sharp["candidates"] is None
    assert drawn["candidates"] == "65 draws from the errors, on average Fe 40.0 O 60.0 at%"
    assert elements["candidates"].startswith("FeO ")


def test_the_same_statement_gives_the_same_answer_alone_and_among_others(checkpoint: Path) -> None:
    predictor = Predictor(checkpoint, batch_size=3)
    text = "Fe 40±5, O 60±5 at%"
    alone = predictor([text])[0]
    rows = predictor(["NaCl", text, "Fe,O", "Xx", text])
    assert rows[1] == alone
    assert rows[4] == alone
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, False]
    sharp = Predictor(checkpoint, batch_size=3)(["NaCl"])[0]
    assert rows[0] == sharp


def test_a_pattern_that_an_aligned_model_knows_weighs_the_candidates(
    checkpoint: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    make_store(store, 64)
    aligned = models.aligned(tmp_path / "aligned.ckpt")
    bank = [make_material(2 * i).formula for i in range(20)]
    scale = np.linspace(-8, 0, 99).tolist()
    Calibration(digest(aligned), bank, scale, 0.05, {}, {}).keep(aligned)
    material = next(m for m in map(make_material, range(64)) if len(m.elements) == 2)
    symbols = ",".join(SYMBOLS[z] for z in material.elements)
    row = {"formula": symbols, "id": material.id}
    weighed, plain = Predictor(checkpoint, [store], aligned=aligned), Predictor(checkpoint, [store])
    with_pattern, without = weighed([row])[0], plain([row])[0]
    assert with_pattern["error"] == without["error"] == ""
    assert 0 < with_pattern["agreement"] <= 1
    assert without["agreement"] is None
    # What the composition alone says does not depend on the pattern; the answer does.
    name = "formation_energy"
    assert with_pattern[f"{name}_composition_predicted"] == without[f"{name}_composition_predicted"]
    assert with_pattern[f"{name}_predicted"] != without[f"{name}_predicted"]
    assert with_pattern["candidates"] != without["candidates"]


def test_tables_and_flags_take_every_notation(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, output = tmp_path / "t.csv", tmp_path / "out.csv"
    table.write_text(
        'formula\nFe2O3\n"Fe,O"\nFe-O\n"Fe 55±2, O 45±2 wt%"\nFe 55 +/- 2; O 45 +/- 2 at%\n'
        '"Fe 55±2, O 25±2 wt%"\n'
    )
    command = ["predict", f"--checkpoint={checkpoint}"]
    assert main([*command, f"--input={table}", f"--output={output}"]) == 0
    with output.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["error"]) for row in rows] == [False] * 5 + [True]
    assert "sum to 80" in rows[5]["error"]
    assert rows[1]["formation_energy_predicted"] == rows[2]["formation_energy_predicted"]
    capsys.readouterr()
    assert main([*command, "--formula=Fe 55±2, O 45±2 wt%"]) == 0
    assert "averaged over 65 draws from the errors, on average Fe " in capsys.readouterr().out


def test_a_share_of_the_weight_stays_as_it_was_without_the_pattern() -> None:
    prior, scores = np.array([0.6, 0.3, 0.1]), np.array([-50.0, -40.0, -30.0])
    sure = weighed(prior, scores, 1.0, 0.0)
    assert sure == pytest.approx([0.0, 0.0, 1.0], abs=1e-3)
    doubtful = weighed(prior, scores, 1.0, 0.2)
    assert doubtful == pytest.approx([0.12, 0.06, 0.82], abs=1e-3)
    # A power of 0 knows nothing of the pattern; a higher one is surer, and all weights sum to 1.
    assert weighed(prior, scores, 0.0, 0.0) == pytest.approx(prior)
    powers = [weighed(prior, scores / 10, power, 0.1) for power in (0.2, 0.5, 1.0)]
    assert powers[0][2] < powers[1][2] < powers[2][2]
    assert [float(weights.sum()) for weights in powers] == pytest.approx([1.0] * 3)
