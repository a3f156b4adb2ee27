"""Measured patterns as a store, and training on them together with simulated ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.grid import Grid
from datamodules.rendering.peaks import PeakShape
from datamodules.store.collection import Collection
from datamodules.store.gathering import Gatherer
from datamodules.store.splits import SplitConfig
from datamodules.store.store import Store
from datamodules.stream.stream import Stream
from datamodules.xrd_datamodule import XRDDataModule
from lightning_modules.__main__ import main
from tests.datamodules.patterns import EVERYTHING
from tests.factories import make_material, make_store
from tests.measured.patterns import angles, counts, simulate, write, xy

ROOT = Path(__file__).parents[2]


def lab_of(tmp_path: Path, n: int = 6) -> tuple[Path, Path]:
    """A folder of patterns and its table."""
    folder = tmp_path / "scans"
    folder.mkdir(parents=True)
    x = angles(10, 89.9, 0.05)
    lines = ["file,formula,wavelength,gap"]
    for number in range(0, 2 * n, 2):
        y = simulate(x, 1.54184, number, fwhm=0.3)
        (folder / f"{number}.xy").write_bytes(xy(x, y / y.max() * 1e5 + 100))
        lines.append(f"{number}.xy,{make_material(number).formula},1.54184,{number / 2}")
    table = tmp_path / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return folder, table


def prepare(folder: Path, table: Path, output: Path, *more: str) -> int:
    command = ["prepare", "patterns", str(folder), f"--labels={table}", f"--output={output}"]
    return main([*command, "--step=0.1", "--fwhm=0.5", *more])


def test_a_folder_becomes_a_store_of_profiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = lab_of(tmp_path)
    with table.open("a") as file:
        file.write("0.xy,NaCl,CuKa,1\nnone.xy,NaCl,CuKa,1\n2.xy,,CuKa,1\n4.xy,NaCl,tin,1\n")
    # Of files named twice the first sound row wins: 2.xy and 4.xy come again, too late.
    output = tmp_path / "lab"
    assert prepare(folder, table, output, "--targets=gap=band_gap") == 0
    store = Store(output)
    store.verify()
    manifest = store.manifest
    assert manifest.counts == {"read": 10, "written": 6, "rejected": 1, "duplicates": 3}
    assert manifest.grid == Grid(step=0.1).to_dict()
    assert store.target_units["band_gap"] == "eV"
    for row in range(6):
        material = store.material(row)
        assert material.targets["band_gap"] == row
        wanted = make_material(2 * row)
        assert material.profile is not None
        profile = material.profile.astype(float)
        measured = np.isfinite(profile)
        assert measured.mean() == pytest.approx(0.94, abs=0.01)
        expected = simulate(Grid(step=0.1).two_theta(), 1.54184, 2 * row, fwhm=0.5)
        similarity = np.corrcoef(profile[measured], expected[measured])[0, 1]
        assert similarity > 0.98
        np.testing.assert_array_equal(material.elements, wanted.elements)
    left_out = [json.loads(x) for x in (output / "rejected.jsonl").read_text().splitlines()]
    assert "no such file" in left_out[1]["detail"]
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "  left out: row 7, 0.xy: met before"
    assert told[1].startswith("  left out: row 8, none.xy: ")
    assert prepare(folder, table, output) == 2
    assert "exists already, of other patterns or options" in capsys.readouterr().err
    assert prepare(folder, table, tmp_path / "other", "--wavelength-column=lambda") == 2
    assert "no column 'lambda'" in capsys.readouterr().err


def test_formulas_are_written_as_in_simulated_stores(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    x = angles()
    for name in ("O2Ti_1.xrdml", "Mn2O2 second.xrdml", "Ca3P2O8.xrdml"):
        write(folder, "xrdml", x, counts(x)).rename(folder / name)
    output = tmp_path / "lab"
    command = ["prepare", "patterns", str(folder), f"--output={output}"]
    # YBCO.xy would be yttrium, boron, carbon and oxygen: names are formulas only where told.
    assert main(command) == 2
    assert main([*command, "--formula-from-name"]) == 0
    found = set(Store(output).column("formula"))
    # So that a formula's measured and simulated patterns fall on one side of a split.
    assert found == {"TiO2", "MnO", "Ca3(PO4)2"}


def test_percentages_are_taken_as_stated_and_elements_alone_are_refused(tmp_path: Path) -> None:
    folder, table = lab_of(tmp_path, 3)
    table.write_text(
        'file,formula,wavelength\n0.xy,"Fe 40±2, O 60±2, S 0±1 at%",CuKa\n2.xy,"Fe,O",CuKa\n'
        '4.xy,"Fe 40±2, O 50±2 at%",CuKa\n'
    )
    assert prepare(folder, table, tmp_path / "lab") == 0
    store = Store(tmp_path / "lab")
    assert len(store) == 1
    assert store.material(0).formula == "Fe2O3"
    rejected = (tmp_path / "lab/rejected.jsonl").read_text().splitlines()
    assert "needs amounts or percentages" in json.loads(rejected[0])["detail"]
    assert "sum to 90" in json.loads(rejected[1])["detail"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name,formula\na.xy,NaCl\n", "no column 'file'"),
        ("file,formula\n", "has no rows"),
        ("file,formula\na.xy,NaCl\n", "none of 1 .* the first: row 1, a.xy: .*no such file"),
    ],
)
def test_a_table_that_cannot_be_used_leaves_nothing(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text(content)
    (tmp_path / "scans").mkdir()
    assert prepare(tmp_path / "scans", table, tmp_path / "lab") == 2
    assert re.search(said, capsys.readouterr().err)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scans", "table.csv"]


def test_measured_and_simulated_patterns_fill_one_batch(tmp_path: Path) -> None:
    folder, table = lab_of(tmp_path)
    assert prepare(folder, table, tmp_path / "lab") == 0
    make_store(tmp_path / "simulated", 64)
    stores = [str(tmp_path / "simulated"), str(tmp_path / "lab")]
    data = XRDDataModule(
        stores,
        grid=Grid(step=0.1),
        augment=False,
        repeat={stores[1]: 5},
    )
    train = data.rows("train")
    times = np.bincount(train, minlength=70)
    assert set(times[:64]) == {0, 1}
    assert set(times[64:]) <= {0, 5}
    assert times[64:].sum() >= 15
    gatherer = Gatherer(Collection(stores).stores, [], 12)
    rows = np.array([0, 64, 2, 69])
    arrays = gatherer.gather(rows) | {"index": rows}
    batch = data.renderer({k: torch.from_numpy(v) for k, v in arrays.items()}, augment=False)
    assert batch["measured"].float().mean(dim=1).tolist() == pytest.approx(
        [1.0, 0.94, 1.0, 0.94], abs=0.01
    )
    assert batch["xrd"].amax(dim=1).tolist() == pytest.approx([1.0] * 4)
    # Row 64 is the measured pattern of the material that row 0 simulates.
    both = batch["measured"][1]
    narrow, wide = batch["xrd"][0][both], batch["xrd"][1][both]
    assert torch.corrcoef(torch.stack([narrow, wide]))[0, 1] > 0.6


def test_copies_of_a_pattern_in_an_epoch_are_changed_each_in_its_own_way(tmp_path: Path) -> None:
    folder, table = lab_of(tmp_path)
    assert prepare(folder, table, tmp_path / "lab") == 0
    lab = str(tmp_path / "lab")
    split = SplitConfig(validation=0.0, calibration=0.0, test=0.0)

    def stream() -> tuple[XRDDataModule, Stream]:
        data = XRDDataModule(
            [lab],
            grid=Grid(step=0.1),
            global_batch_size=6,
            repeat={lab + "/": 3},
            split=split,
            augmentation=EVERYTHING,
        )
        return data, data.stream("train", train=True)

    data, whole = stream()
    batches = [data.renderer(batch, augment=True) for batch in whole]
    assert len(batches) == 3
    formulas = torch.cat([batch["formula_key"] for batch in batches])
    patterns = torch.cat([batch["xrd"] for batch in batches])
    assert torch.bincount(formulas.unique(return_inverse=True)[1]).tolist() == [3] * 6
    for key in formulas.unique():
        a, b, c = patterns[formulas == key]
        assert not torch.equal(a, b)
        assert not torch.equal(b, c)
        assert not torch.equal(a, c)
    # What a copy gets follows from its place in the epoch: a resume serves the same.
    first = stream()[1]
    next(iter(first))
    data, resumed = stream()
    resumed.load_state_dict(first.state_dict())
    again = [data.renderer(batch, augment=True)["xrd"] for batch in resumed]
    assert torch.equal(torch.cat(again), patterns[6:])


def test_a_backbone_is_adapted_to_a_lab_by_the_recipes(tmp_path: Path) -> None:
    folder, table = lab_of(tmp_path, 12)
    assert prepare(folder, table, tmp_path / "lab") == 0
    make_store(tmp_path / "simulated", 400)
    stores = f"{tmp_path / 'simulated'},{tmp_path / 'lab'}"
    assert (
        main(
            [
                "fit",
                f"--config={ROOT / 'configs/pretrain_masked_contrastive.yaml'}",
                f"--config={ROOT / 'configs/augmentation/measured.yaml'}",
                f"--data.stores=[{stores}]",
                f"--data.repeat={{{tmp_path / 'lab'}: 3}}",
                f"--run={tmp_path / 'run'}",
                "--data.grid.step=0.1",
                "--data.global_batch_size=16",
                "--model.backbone.width=16",
                "--model.backbone.heads=2",
                "--trainer.max_steps=3",
                "--trainer.val_check_interval=3",
                "--trainer.accelerator=cpu",
                "--trainer.devices=1",
                "--trainer.logger=false",
                "--trainer.enable_progress_bar=false",
                "--trainer.enable_model_summary=false",
            ]
        )
        == 0
    )
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()
    assert "repeat" in (tmp_path / "run/config.yaml").read_text()


def test_a_repetition_of_no_store_warns_and_of_none_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "simulated", 64)
    stores = [str(tmp_path / "simulated")]
    with pytest.warns(UserWarning, match=r"lab is none of data\.stores"):
        XRDDataModule(stores, repeat={"lab": 3})
    with pytest.raises(ValueError, match="served 0 times"):
        XRDDataModule(stores, repeat={stores[0]: 0})


def test_peaks_that_differ_from_the_laboratorys_are_told(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder, table = lab_of(tmp_path)
    assert prepare(folder, table, tmp_path / "lab") == 0  # --fwhm=0.5

    def told(**peaks: float) -> list[str]:
        recwarn.clear()
        XRDDataModule(
            [str(tmp_path / "lab")], grid=Grid(step=0.1), peaks=PeakShape(**{"fwhm": 0.5, **peaks})
        )
        return [str(w.message) for w in recwarn if str(tmp_path) in str(w.message)]

    assert told() == []
    (width,) = told(fwhm=0.3)
    assert "widened to 0.5°, data.peaks.fwhm is 0.3°" in width
    (polarization,) = told(polarization=0.8)
    assert "polarization 1, data.peaks.polarization is 0.8" in polarization


def test_a_store_of_older_patterns_is_not_taken_for_the_new_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = lab_of(tmp_path)
    output = tmp_path / "lab"
    assert prepare(folder, table, output) == 0
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert prepare(folder, table, output) == 0
    assert "is there already, of the same patterns and options" in capsys.readouterr().out
    other, other_table = lab_of(tmp_path / "other", 5)
    (folder / "0.xy").write_bytes((folder / "2.xy").read_bytes())
    for command in (
        lambda: prepare(folder, table, output),  # a scan was made again
        lambda: prepare(other, other_table, output),
        lambda: prepare(folder, table, output, "--fwhm=0.4"),
    ):
        assert command() == 2
        assert "exists already, of other patterns or options" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before
