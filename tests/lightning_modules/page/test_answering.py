"""From a scan and a composition to an answer and its HTML, without a page."""

import base64
import csv
import gc
import io
import re
import tempfile
from pathlib import Path

import pytest

from lightning_modules.inference.evidence import AlignedModel
from lightning_modules.inference.neighbours import Library
from lightning_modules.page.answering import Answerer, Question, elements_of
from lightning_modules.page.command_line import make_answerer, make_parser
from lightning_modules.page.shown import data_of, html_of, read_note
from tests.factories import make_material


@pytest.fixture(scope="module")
def answerer(lab: Path) -> Answerer:
    return served(lab, f"--aligned={lab / 'aligned.ckpt'}")


def served(lab: Path, *flags: str) -> Answerer:
    """What the command asks, told where models and library lie."""
    named = [f"--checkpoint={lab / 'properties.ckpt'}", f"--library={lab / 'known'}"]
    return make_answerer(make_parser().parse_args([*named, "--device=cpu", *flags]))


def held(kind: type) -> int:
    """How many there are in memory."""
    gc.collect()
    return sum(type(x) is kind for x in gc.get_objects())


def scan(lab: Path, name: str = "scan.xy", **more: object) -> Question:
    return Question(name=name, content=(lab / name).read_bytes(), **more)  # type: ignore[arg-type]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_answer_is_that_of_predict_and_retrieve(answerer: Answerer, lab: Path) -> None:
    answer = answerer(scan(lab, composition="NaCl", wavelength="CuKa", elements_known=False))
    given = {"formula": "NaCl", "pattern": str(lab / "scan.xy"), "wavelength": "CuKa"}
    expected = answerer.predictor([given])[0] | {"pattern": "scan.xy"}
    assert answer.prediction == expected
    assert answer.prediction["agreement"] is not None
    assert answer.found is not None
    # `patterns.counts` simulates this one.
    assert answer.found.matches[0].known.id == make_material(4).id
    assert len(answer.nearest) == 3
    assert answer.error == ""
    assert answer.converted is not None


def test_the_library_and_the_aligned_model_are_held_once(answerer: Answerer, lab: Path) -> None:
    before = held(Library), held(AlignedModel)
    another = served(lab, f"--aligned={lab / 'aligned.ckpt'}")
    assert (held(Library), held(AlignedModel)) == (before[0] + 1, before[1] + 1)
    assert another.retriever is not None
    assert another.retriever.library is another.predictor.library


def test_a_library_is_compared_without_an_aligned_model(lab: Path) -> None:
    answer = served(lab)(scan(lab, wavelength="CuKa"))
    assert answer.found is not None
    assert answer.found.matches[0].known.id == make_material(4).id
    assert not answer.nearest


def test_known_materials_have_the_elements_of_the_composition(
    answerer: Answerer, lab: Path
) -> None:
    formula = make_material(9).formula
    answer = answerer(scan(lab, composition=formula, wavelength="CuKa"))
    assert answer.found is not None
    allowed = set(elements_of(formula))
    assert all(set(elements_of(m.known.formula)) <= allowed for m in answer.found.matches)
    answer = answerer(scan(lab, composition="He", wavelength="CuKa"))
    assert answer.found is None
    assert "none of the library's 40 materials has such elements" in answer.found_error
    assert "not compared" in html_of(answer, answerer)


@pytest.mark.parametrize("text", ["Fe2O3", "Fe,O", "Fe 55±2, O 45±2 at%", "O 40, Fe bal at%"])
def test_elements_of_whatever_a_laboratory_says(text: str) -> None:
    assert elements_of(text) == (8, 26)


def test_a_composition_alone_is_answered(answerer: Answerer) -> None:
    answer = answerer(Question("Fe,O"))
    assert (answer.error, answer.scan, answer.found) == ("", None, None)
    assert "averaged over" in html_of(answer, answerer)
    assert "promise nothing" not in html_of(answer, answerer)


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Question(), "nothing is given"),
        (Question(wavelength="CuKa"), "nothing is given"),
        (Question("NaCl", wavelength="kitchen"), "wavelength 'kitchen': give Å"),
        (Question("Na" * 400), "the composition has 800 characters"),
        (Question("", "broken.xrdml", b"<xrdMeasurements><cut"), "broken.xrdml"),
        (Question("", "run.xlsx", b"PK\x03\x04"), "run.xlsx"),
        (Question("", "empty.xy", b""), "empty.xy"),
        (Question("", "/etc/../..\\a\x1b[31m.xy", b"10 1\n"), "xy"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file_without_its_folder(
    answerer: Answerer, temporary: Path, question: Question, reason: str
) -> None:
    answer = answerer(question)
    assert reason in answer.error
    assert len(answer.error.splitlines()) == 1
    assert str(temporary) not in answer.error
    assert "\x1b" not in answer.error
    assert html_of(answer, answerer).startswith('<div class="x-error" role="alert">')
    assert list(temporary.iterdir()) == []


def test_without_a_wavelength_it_is_asked_for(answerer: Answerer, lab: Path) -> None:
    question = scan(lab)
    assert "give it below" in read_note(answerer.read(question), question, False)
    assert "give it below" not in read_note(answerer.read(question), question, True)
    answer = answerer(question)
    assert "wavelength is unknown" in answer.error
    assert "scan.xy" in answer.error
    own = scan(lab, "scan.xrdml")
    assert "1.5418" in read_note(answerer.read(own), own, False)
    assert answerer(own).error == ""


def test_an_unreadable_composition_does_not_hide_what_the_scan_says(
    answerer: Answerer, lab: Path
) -> None:
    answer = answerer(scan(lab, composition="Xx2", wavelength="CuKa", elements_known=False))
    assert answer.prediction["error"]
    assert answer.found is not None
    shown = html_of(answer, answerer)
    assert "not predicted" in shown
    assert "Known materials whose lines fit" in shown


def test_nothing_of_a_scan_stays_on_the_disk(
    answerer: Answerer, lab: Path, temporary: Path
) -> None:
    assert answerer(scan(lab, composition="NaCl", wavelength="CuKa")).error == ""
    assert list(temporary.iterdir()) == []


def test_the_tables_are_those_of_the_command_line(answerer: Answerer, lab: Path) -> None:
    answer = answerer(scan(lab, composition="NaCl", wavelength="CuKa", elements_known=False))
    tables = {}
    links = r'download="(\w+).csv" href="data:text/csv;base64,([^"]*)"'
    for name, data in re.findall(links, html_of(answer, answerer)):
        text = base64.b64decode(data).decode()
        tables[name] = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(tables) == ["prediction", "matches"]
    row = tables["prediction"][0]
    assert row["pattern"] == "scan.xy"
    assert float(row["density_predicted"]) == answer.prediction["density_predicted"]
    assert [row["rank"] for row in tables["matches"]] == list("12345")
    assert list(tables["matches"][0])[:6] == [
        "file", "rank", "id", "formula", "score", "confident"
    ]  # fmt: skip
    data = data_of(answer)
    assert data["prediction"]["density_predicted"] == answer.prediction["density_predicted"]
    assert data["matches"][0]["id"] == make_material(4).id


def test_a_contradiction_is_told(answerer: Answerer, lab: Path) -> None:
    answer = answerer(scan(lab, composition="NaCl", wavelength="CuKa"))
    answer.prediction |= {"agreement": 0.004, "contradiction": "yes"}
    shown = html_of(answer, answerer)
    assert 'class="x-contradiction"' in shown
    assert "contradict each other: of sound pairs only 0.4 % fit as badly" in shown
    answer.prediction |= {"agreement": 0.4, "contradiction": "no"}
    assert 'class="x-contradiction"' not in html_of(answer, answerer)


def test_what_a_file_says_cannot_become_part_of_the_page(answerer: Answerer, lab: Path) -> None:
    name = "<img src=x onerror=alert(1)>.xy"
    question = Question("NaCl", name, (lab / "scan.xy").read_bytes(), "CuKa")
    for shown in (
        html_of(answerer(question), answerer),
        html_of(answerer(Question("<script>alert(1)</script>")), answerer),
        read_note(answerer.read(question), question, False),
    ):
        assert "<img src=x" not in shown
        assert "<script" not in shown
