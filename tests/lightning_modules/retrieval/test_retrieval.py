"""Which known material is in a scan: line by line, by elements, in mixtures, and when none is."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.elements import SYMBOLS
from datamodules.formula import parse_formula
from datamodules.measured import Options
from datamodules.measured.wavelength import parse_wavelength
from lightning_modules.__main__ import main
from lightning_modules.inference.evidence import AlignedModel
from lightning_modules.inference.neighbours import ElementFilter, Library
from lightning_modules.retrieval import Freedom, Retriever, retrieve
from lightning_modules.retrieval.confidence import OWN, Confidence
from lightning_modules.retrieval.matching import Matcher
from tests.commands import error_of
from tests.factories import make_material, make_store
from tests.lightning_modules.retrieval import scans
from tests.measured import models

N = 60
#: As if measured: half of the scans without their material looked better than 0.9.
CONFIDENCE = Confidence(
    0.5, np.linspace(0.85, 0.95, 99).tolist(), np.linspace(0, 0.02, 99).tolist()
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    make_store(folder / "known", N)
    return folder / "known"


@pytest.fixture(scope="module")
def library(store: Path) -> Library:
    return Library(store)


@pytest.fixture(scope="module")
def retriever(library: Library) -> Retriever:
    return Retriever(library, confidence=CONFIDENCE)


@pytest.mark.parametrize("number", [7, 31])
def test_the_right_material_comes_first_with_its_strain_shift_and_labels(
    retriever: Retriever, number: int
) -> None:
    answer = retriever(scans.scan((number, 1.0), strain=0.006, shift=-0.06), top=4)
    first, expected = answer.matches[0], make_material(number)
    assert (first.known.id, first.known.formula) == (expected.id, expected.formula)
    assert answer.confident
    assert first.strain == pytest.approx(0.006, abs=5e-4)
    assert first.shift == pytest.approx(-0.06, abs=0.03)
    assert first.known.labels["formation_energy"] == pytest.approx(
        expected.targets["formation_energy"]
    )
    scores = [match.score for match in answer.matches]
    assert scores == sorted(scores, reverse=True)
    assert [match.rank for match in answer.matches] == [1, 2, 3, 4]
    assert not any(match.confident for match in answer.matches[1:])
    assert len(answer.phases) == 1
    assert 0.8 < answer.phases[0].share <= 1.0


def test_a_strain_or_shift_that_is_not_allowed_is_not_used(library: Library) -> None:
    free, bound = (
        Retriever(library, freedom, confidence=CONFIDENCE)(scans.scan((7, 1.0), strain=0.015))
        for freedom in (Freedom(), Freedom(strain=0.002, shift=0.0))
    )
    assert free.matches[0].known.row == 7
    own = next((match for match in bound.matches if match.known.row == 7), None)
    assert own is None or own.score < free.matches[0].score - 0.2
    assert all(abs(match.strain) < 0.0021 and match.shift == 0 for match in bound.matches)


def test_other_radiation_finds_the_same_material(retriever: Retriever) -> None:
    copper = scans.scan((31, 1.0))
    sine = np.sin(np.radians(copper.x / 2)) / 1.54184 * parse_wavelength("MoKa").mean
    molybdenum = scans.scan((31, 1.0))
    molybdenum.x = np.degrees(2 * np.arcsin(sine))
    molybdenum.wavelength = None
    with pytest.raises(ValueError, match="wavelength is unknown"):
        retriever(molybdenum)
    answer = retriever(molybdenum, Options(parse_wavelength("MoKa")))
    assert answer.matches[0].known.row == 31


def test_without_its_material_no_match_is_confident(store: Path, tmp_path: Path) -> None:
    without = [make_material(i) for i in range(N) if i // 2 not in (3, 15)]
    make_store(tmp_path / "without", materials=without)
    retriever = Retriever(Library(tmp_path / "without"), confidence=CONFIDENCE)
    for number in (7, 31):
        answer = retriever(scans.scan((number, 1.0)))
        assert len(answer.matches) == 10
        assert not answer.confident


def test_confidence_grows_with_score_and_lead_and_follows_the_level(library: Library) -> None:
    assert CONFIDENCE.false_share(0.99, 0.0) == pytest.approx(0.01)
    assert CONFIDENCE.false_share(0.90, 0.0) == pytest.approx(0.5, abs=0.02)
    assert CONFIDENCE.false_share(0.90, 0.09) < CONFIDENCE.false_share(0.90, 0.02)
    assert CONFIDENCE.false_share(0.90, 0.5) == CONFIDENCE.false_share(0.90, 0.1)
    loose = Retriever(library, confidence=CONFIDENCE, false_confident=0.6)
    strict = Retriever(library, confidence=CONFIDENCE, false_confident=0.02)
    assert loose.is_confident(0.90, 0.0)
    assert not strict.is_confident(0.90, 0.0)
    with pytest.raises(ValueError, match=r"give at least 0\.01"):
        Retriever(library, confidence=CONFIDENCE, false_confident=0.001)


def test_the_package_says_what_its_confidence_was_measured_with() -> None:
    own = Confidence.load(OWN)
    assert len(own.absent) >= 100
    assert own.absent == sorted(own.absent)
    assert own.settings["rows"] > 10_000
    # The defaults can call something confident.
    assert 0.02 * (1 + len(own.absent)) >= 1


def test_elements_narrow_the_search_and_nonsense_is_told(retriever: Retriever) -> None:
    material = make_material(20)
    own = tuple(material.elements.tolist())
    scan = scans.scan((20, 1.0))
    answer = retriever(scan, chosen=ElementFilter(allowed=own))
    assert answer.matches[0].known.row == 20
    for match in answer.matches:
        assert set(make_material(match.known.row).elements.tolist()) <= set(own)
    assert len(answer.matches) < 10
    with pytest.raises(ValueError, match="none of the library's 60 materials"):
        retriever(scan, chosen=ElementFilter.of_text("Og"))


@pytest.mark.parametrize(("first", "second"), [(3, 20), (7, 44)])
def test_a_mixture_is_taken_apart(retriever: Retriever, first: int, second: int) -> None:
    answer = retriever(scans.scan((first, 0.65), (second, 0.35)))
    assert [part.match.known.row for part in answer.phases] == [first, second]
    assert answer.phases[0].share == pytest.approx(0.62, abs=0.08)
    assert answer.phases[1].share == pytest.approx(0.33, abs=0.08)
    assert answer.phases[1].match.score > answer.matches[0].score + 0.1


def test_vectors_choose_the_candidates_of_large_libraries(store: Path, tmp_path: Path) -> None:
    model = AlignedModel(models.aligned(tmp_path / "aligned.ckpt"))
    library = Library(store, model, tmp_path / "vectors.safetensors", quiet=True)
    retriever = Retriever(library, candidates=25, everything=10, confidence=CONFIDENCE)
    scan = scans.scan((31, 1.0))
    _, profile = retriever.read(scan)
    everyone = np.arange(N)
    chosen = retriever.narrowed(profile, everyone)
    assert len(set(chosen.tolist())) == 25
    assert chosen.tolist() == retriever.similar(profile, everyone, N)[:25].tolist()
    assert set(retriever.fits(profile, everyone).rows.tolist()) <= set(chosen.tolist())
    # Few enough: all of them are compared.
    few = np.arange(20, 40)
    assert retriever.narrowed(profile, few).tolist() == few.tolist()
    assert set(retriever.similar(profile, few, 5).tolist()) <= set(few.tolist())


def test_matching_moves_lines_as_the_renderer_does(library: Library) -> None:
    matcher = Matcher(library)
    retriever = Retriever(library, confidence=CONFIDENCE)
    _, profile = retriever.read(scans.scan((11, 1.0), strain=-0.0117, shift=0.09))
    fits = matcher.fine(profile, matcher.coarse(profile, np.array([11, 12])))
    placed = matcher.placed(profile, fits)
    cosine = torch.nn.functional.cosine_similarity(placed[0].sqrt(), profile.intensity.sqrt(), 0)
    # The score is this, less what the strain costs.
    assert float(fits.scores[0]) == pytest.approx(float(cosine) - 0.005 * 1.17**2, abs=0.01)
    # The penalty leaves a little of the strain to the shift.
    assert float(fits.strain[0]) == pytest.approx(-0.0117, abs=1e-3)


def test_the_function_gives_the_same_matches(library: Library) -> None:
    found = retrieve(scans.scan((7, 1.0)), library, top=2)
    assert len(found) == 2
    assert found[0].known.row == 7


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    scans.write(folder / "a.xy", scans.scan((7, 1.0)))
    scans.write(folder / "b.xy", scans.scan((3, 0.65), (20, 0.35)))
    (folder / "c.xy").write_text("1 2\n")
    return folder


def test_a_folder_of_scans_gives_a_table_pictures_and_a_printed_answer(
    folder: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, phases, pictures = (tmp_path / name for name in ("m.csv", "p.csv", "pictures"))
    command = ["retrieve", f"--library={store}", f"--input={folder}", f"--output={output}"]
    command += [f"--phases={phases}", f"--pictures={pictures}", "--wavelength=CuKa", "--top=3"]
    CONFIDENCE.save(tmp_path / "confidence.json")
    command += [f"--confidence={tmp_path / 'confidence.json'}"]
    assert main(command) == 0
    said = capsys.readouterr()
    rows = read(output)
    assert list(rows[0]) == [
        "file", "rank", "id", "formula", "score", "confident",
        "formation_energy", "band_gap", "space_group", "volume_per_atom", "density",
    ]  # fmt: skip
    assert [(row["file"], row["rank"]) for row in rows] == [
        (name, str(rank)) for name in ("a.xy", "b.xy") for rank in (1, 2, 3)
    ]
    assert (rows[0]["id"], rows[0]["confident"]) == (make_material(7).id, "yes")
    assert [row["confident"] for row in rows[1:]] == ["no"] * 5
    assert rows[0]["space_group"] == "221"
    parts = read(phases)
    assert [(part["file"], part["phase"]) for part in parts] == [
        ("a.xy", "1"), ("b.xy", "1"), ("b.xy", "2"),
    ]  # fmt: skip
    assert parts[2]["formula"] == make_material(20).formula
    assert f"a.xy: {make_material(7).formula}" in said.out
    assert "b.xy: no confident match" in said.out
    assert f"what is left fits {make_material(20).formula}" in said.out
    assert "c.xy" in said.err
    for name in ("a.xy.png", "b.xy.png"):
        assert (pictures / name).read_bytes()[:4] == b"\x89PNG"
    assert not (pictures / "c.xy.png").exists()
    error = error_of(capsys, lambda: main(command))
    assert "exists already" in error


def test_a_table_gives_each_scan_its_wavelength_and_elements(
    folder: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "table.csv"
    allowed = ",".join(SYMBOLS[z] for z in make_material(31).elements)
    table.write_text(
        "pattern,wavelength,elements\n"
        f"a.xy,CuKa,\nb.xy,,\n,CuKa,\na.xy,CuKa,Xx\na.xy,CuKa,Og\n"
        f'a.xy,CuKa,"{allowed}"\n'
    )
    output = folder / "matches.csv"
    command = ["retrieve", f"--library={store}", f"--input={table}", "--top=1"]
    assert main([*command, f"--output={output}"]) == 0
    rows = read(output)
    assert len(rows) == 2
    assert (rows[0]["file"], rows[0]["id"]) == ("a.xy", make_material(7).id)
    assert set(parse_formula(rows[1]["formula"])[0]) <= set(make_material(31).elements)
    said = capsys.readouterr().err
    assert "b.xy: the wavelength is unknown" in said
    assert "the row has no pattern" in said
    assert "'Xx' is no element" in said
    assert "none of the library's 60 materials" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "the wavelength is unknown"),
        (["--wavelength=CuKa", "--elements=Xx"], "no element"),
        (["--wavelength=CuKa", "--elements=Og"], "none of the library's 60 materials"),
        (["--wavelength=CuKa", "--top=0"], "--top 0"),
        (["--wavelength=CuKa", "--strain=0.5"], "strain is 0.5"),
        (["--wavelength=CuKa", "--shift=-1"], "zero shift is -1"),
        (["--wavelength=CuKa", "--candidates=0"], "give at least 1"),
        (["--wavelength=CuKa", "--false-confident=0"], "between 0 and 1"),
        (["--wavelength=CuKa", "--number-of-elements=x"], "give a number"),
        (["--wavelength=CuKa", "--confidence=none.json"], "none.json: cannot be read"),
        (["--wavelength=CuKa", "--library=none"], "no such store"),
        (["--wavelength=CuKa", "--checkpoint=none.ckpt"], "none.ckpt"),
        (["--wavelength=CuKa", "--input=none.xy"], "no such file"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_writes_nothing(
    folder: Path, store: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["retrieve", f"--library={store}", f"--input={folder / 'a.xy'}", *more]
    assert said in error_of(capsys, lambda: main(command))
    assert sorted(path.name for path in folder.iterdir()) == ["a.xy", "b.xy", "c.xy"]


def test_a_scale_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "confidence.json"
    CONFIDENCE.save(path)
    assert Confidence.load(path) == CONFIDENCE
    good = json.loads(path.read_text())
    for wrong in (
        {**good, "absent": []},
        {**good, "lead_weight": "much"},
        {**good, "absent": ["x"]},
        {**good, "format_version": 9},
        {key: value for key, value in good.items() if key != "single_gains"},
        [],
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"confidence\.json: cannot be read"):
            Confidence.load(path)
