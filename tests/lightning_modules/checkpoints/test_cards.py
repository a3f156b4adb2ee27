"""Cards of models: what a run measured, told the same again; what cannot be told is refused."""

import json
import math
import shutil
from pathlib import Path

import pytest

from lightning_modules.__main__ import main
from lightning_modules.checkpoints import export
from lightning_modules.checkpoints.export import export_model
from lightning_modules.checkpoints.whole import OWN_CHECKSUM


def test_the_card_says_what_the_run_measured_and_is_written_equal_again(
    checkpoint: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(checkpoint.parent, run / "checkpoints")
    (run / "metrics.test.json").write_text(
        json.dumps(
            {
                "test/alignment/random/pool_size": 1024.0,
                **{
                    f"test/alignment/random/xrd_to_composition/recall_at_{n}": n / 100
                    for n in (1, 5, 10)
                },
                "test/both/band_gap/coverage": 0.91,
                "test/both/band_gap/coverage_low": 0.8,
                "test/both/band_gap/coverage_high": 0.95,
                "test/both/band_gap/width": 1.5,
            }
        )
    )
    line = {"formula": "MnO", "formulas_more_similar": 1, "rank_of": 11851, "fwhm": 0.1553}
    (run / "measured.jsonl").write_text(json.dumps(line) + "\n")
    cards = []
    for name in ("one", "two"):
        export_model(run / "checkpoints/last.ckpt", tmp_path / name / "mine", notes="Not for X.")
        cards.append((tmp_path / name / "mine/README.md").read_text())
    assert cards[0] == cards[1]
    assert "Predicts, from composition or pattern, or both: formation_energy" in cards[0]
    assert "| composition of a pattern | 0.010 | 0.050 | 0.100 |" in cards[0]
    assert "| band_gap | both | 0.910 [0.800, 0.950] | 1.5 |" in cards[0]
    assert "| MnO | 2 of 11,851 | 0.16° |" in cards[0]
    assert cards[0].endswith("Not for X.\n")


def test_a_model_that_is_exported_again_is_the_same_without_its_run(
    checkpoint: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(checkpoint.parent, run / "checkpoints")
    data = {"stores": [str(tmp_path / "gone" / "oxides")], "global_batch_size": 64}
    (run / "config.yaml").write_text(json.dumps({"data": data}))
    errors = ["target,given,by,group,n,mae,rmse", "band_gap,both,all,all,9.0,0.25,0.5"]
    (run / "errors.test.csv").write_text("\n".join(errors))
    metrics = {f"test/both/band_gap/coverage{end}": 0.5 for end in ("", "_low", "_high")}
    metrics |= {"test/both/band_gap/width": math.nan, "test/both/band_gap/mae": 0.25}
    (run / "metrics.test.json").write_text(json.dumps(metrics))
    line = {"formula": "MnO", "formulas_more_similar": 1, "rank_of": 9, "fwhm": 0.1, "file": "m.xy"}
    # The width of a scan's lines is not known where they are too few.
    lines = [line, line | {"formula": "NiO", "fwhm": None}]
    (run / "measured.jsonl").write_text("\n".join(map(json.dumps, lines)))
    export_model(run / "checkpoints/last.ckpt", tmp_path / "a/mine", "bfloat16", "Not for X.")
    shutil.rmtree(run)
    command = ["export", f"--checkpoint={tmp_path / 'a/mine'}", f"--output={tmp_path / 'b/mine'}"]
    assert main(command) == 0
    for name in ("model.safetensors", "model.json", "README.md"):
        assert (tmp_path / "a/mine" / name).read_bytes() == (
            tmp_path / "b/mine" / name
        ).read_bytes()
    card = (tmp_path / "b/mine/README.md").read_text()
    for said in ("| oxides |", "of 64 materials", "| band_gap | both | 9 | 0.25 |", "Not for X.",
                 "| band_gap | both | 0.500 [0.500, 0.500] | – |", "| MnO | 2 of 9",
                 "| NiO | 2 of 9 | – |"):  # fmt: skip
        assert said in card
    assert str(tmp_path) not in card + (tmp_path / "b/mine/model.json").read_text()
    export_model(tmp_path / "a/mine", tmp_path / "c/mine", notes="For Y.")
    assert (tmp_path / "c/mine/README.md").read_text() == card.replace("Not for X.", "For Y.")


@pytest.mark.parametrize(
    ("name", "value"),
    [("recorded", {"errors": 3}), ("recorded", []), ("notes", 3), ("notes", "\ud800"),
     ("evidence", {"kinds": {}}), ("precision", "int1"), ("steps", None), ("steps", True),
     ("recorded", {"measured": [{"formula": "MnO", "rank_of": 9, "fwhm": 0.1}]}),
     ("recorded", {"errors": [{"target": "a", "given": "both", "by": "all", "group": "all",
                               "n": "many"}]}),
     ("recorded", {"metrics": {"test/both/a/coverage": "high"}}),
     ("recorded", {"data": {"stores": [{"materials": 3}], "batch": 1, "augment": True}})],
)  # fmt: skip
def test_what_cannot_be_told_is_refused_in_one_line_and_leaves_no_folder(
    name: str, value: object, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, tmp_path / "copy")
    recorded = {"data": {"stores": [], "batch": 64, "augment": True}}
    described = json.loads((tmp_path / "copy/model.json").read_text())
    del described[OWN_CHECKSUM]
    described |= {"recorded": recorded} | {name: value}
    (tmp_path / "copy/model.json").write_text(json.dumps(described))
    command = ["export", f"--checkpoint={tmp_path / 'copy'}", f"--output={tmp_path / 'mine'}"]
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_fault_of_the_card_is_no_fault_of_the_users_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        return {}["a bug of ours"]

    monkeypatch.setattr(export, "card", broken)
    with pytest.raises(KeyError, match="a bug of ours"):
        export_model(checkpoint, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
