"""`xxact report retrieval`: scans by computer, and what is measured with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lightning_modules.__main__ import main
from lightning_modules.experiments.assessment.retrieval import FAULTS, measure, simulated_scans
from lightning_modules.inference.neighbours import Library
from lightning_modules.retrieval import Retriever
from lightning_modules.retrieval.confidence import Confidence
from tests.commands import error_of
from tests.factories import make_store

N = 60


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("library")
    make_store(folder, N)
    return Library(folder)


def test_simulated_scans_are_the_same_again_and_name_what_is_mixed_in(library: Library) -> None:
    mixed = replace(FAULTS, impurity=0.4, impurity_probability=1.0)
    once, again = (list(simulated_scans(library, [3, 8], mixed)) for _ in range(2))
    for (scan, partner), (other, same) in zip(once, again, strict=True):
        np.testing.assert_array_equal(scan.intensity, other.intensity)
        assert partner == same
        assert partner is not None
    pure = replace(FAULTS, impurity=0.0, impurity_probability=0.0)
    assert [partner for _, partner in simulated_scans(library, [3, 8], pure)] == [None, None]


def test_what_is_measured_tells_present_from_absent_materials(library: Library) -> None:
    whatever = Confidence(0.5, [1.0] * 99, [1.0] * 99)
    result = measure(Retriever(library, confidence=whatever), np.arange(0, N, 3), mixtures=2)
    figures = result.figures
    assert figures["scans"] + figures["refused"] == N // 3
    assert len(result.absent) == figures["scans"]
    assert result.absent == sorted(result.absent)
    assert figures["lines"]["recall@5"] >= 0.8
    assert figures["lines, elements known"]["recall@1"] >= figures["lines"]["recall@1"]
    level = figures["called confident at 0.05"]
    # With 10 scans of the scale no share is as small as this.
    assert level["lines"]["right"] == level["absent"]["wrong"] == 0.0
    assert level["absent"]["right"] == 0.0
    assert figures["second phase"]["scans of one phase"] == len(result.single_gains) == 2
    assert max(result.single_gains) < 0.1


def test_too_few_held_out_materials_are_told(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = library.collection.stores[0].folder
    output = tmp_path / "confidence.json"
    command = ["report", "retrieval", f"--library={folder}", f"--output={output}"]
    assert "at least 20 are needed" in error_of(capsys, lambda: main(command))
    assert "--limit" in error_of(capsys, lambda: main([*command, "--limit=3"]))
    assert not output.exists()
