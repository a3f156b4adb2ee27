"""Cells that are wrong along each axis by itself: found by smeared lines, confident never."""

import numpy as np
import pytest
import torch

from datamodules.store.store import Material
from lightning_modules.inference.neighbours import Library
from lightning_modules.retrieval import Retriever
from lightning_modules.retrieval.confidence import Confidence
from lightning_modules.retrieval.tolerance import tolerant_scores
from tests.factories import make_material, make_store
from tests.lightning_modules.retrieval import scans

N = 60
NUMBER = 56
EVERYONE = np.arange(N)
#: With it every answer, or none, is confident.
ALWAYS, NEVER = (Confidence(0.5, [value] * 99, [1.0] * 99) for value in (-1.0, 2.0))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("library") / "known"
    make_store(folder, N)
    return Library(folder)


@pytest.fixture
def bent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans whose lines have each moved by a share of Q of their own, σ = 1.5 %."""

    def material(number: int) -> Material:
        found = make_material(number)
        moved = np.random.default_rng(number).normal(1.0, 0.015, len(found.q))
        found.q = (found.q * moved).astype(np.float32)
        return found

    monkeypatch.setattr(scans, "make_material", material)


@pytest.mark.usefixtures("bent")
def test_what_the_own_width_loses_comes_second_by_smeared_lines(library: Library) -> None:
    retriever = Retriever(library, confidence=NEVER)
    _, profile = retriever.read(scans.scan((NUMBER, 1.0)))
    fits = retriever.fits(profile, EVERYONE)
    answer, confident = retriever.answers(profile, EVERYONE)
    assert fits.rows.tolist().index(NUMBER) > 1
    assert answer.rows[:2].tolist() == [int(fits.rows[0]), NUMBER]
    assert not confident
    # The same materials with the same scores, only in another order.
    scores = dict(zip(answer.rows.tolist(), answer.scores.tolist(), strict=True))
    assert len(scores) == len(answer.rows)
    for row, score in zip(fits.rows.tolist(), fits.scores.tolist(), strict=True):
        assert scores[row] == pytest.approx(score, abs=1e-6)
    # Where only the best of the first round is compared at the own width, it joins.
    narrow = Retriever(library, refined=1, confidence=NEVER)
    assert narrow.fits(profile, EVERYONE).rows.tolist() == [int(fits.rows[0])]
    joined, _ = narrow.answers(profile, EVERYONE)
    assert joined.rows.tolist() == [int(fits.rows[0]), NUMBER]
    assert float(joined.scores[1]) == pytest.approx(scores[NUMBER], abs=1e-6)


@pytest.mark.usefixtures("bent")
def test_a_confident_answer_keeps_the_order_of_the_own_width(library: Library) -> None:
    retriever = Retriever(library, confidence=ALWAYS)
    scan = scans.scan((NUMBER, 1.0))
    _, profile = retriever.read(scan)
    expected = retriever.fits(profile, EVERYONE).rows.tolist()
    answer, confident = retriever.answers(profile, EVERYONE)
    assert confident
    assert answer.rows.tolist() == expected
    assert [match.known.row for match in retriever(scan).matches] == expected[:10]


def test_an_isotropic_strain_costs_its_penalty_and_no_more_than_allowed(library: Library) -> None:
    retriever = Retriever(library, confidence=NEVER)

    def score(strain: float, allowed: float, number: int = NUMBER) -> float:
        _, profile = retriever.read(scans.scan((NUMBER, 1.0), strain=strain))
        return float(tolerant_scores(profile, library, torch.tensor([number]), allowed)[0])

    still = score(0.0, 0.0)
    assert 0.98 < still <= 1.0
    for strain in (-0.016, 0.016):
        assert score(strain, 0.02) == pytest.approx(still - 0.005 * 1.6**2, abs=0.01)
        assert score(strain, 0.0) < still - 0.1
    assert score(0.0, 0.02, number=NUMBER - 2) < still - 0.2


def test_only_the_measured_range_counts(library: Library) -> None:
    retriever = Retriever(library, confidence=NEVER)
    scan = scans.scan((NUMBER, 1.0))
    part = (scan.x > 30) & (scan.x < 60)
    scan.x, scan.intensity = scan.x[part], scan.intensity[part]
    _, profile = retriever.read(scan)
    scores = tolerant_scores(profile, library, torch.arange(N), 0.02)
    assert int(scores.argmax()) == NUMBER
    assert 0.95 < float(scores[NUMBER]) <= 1.0001
