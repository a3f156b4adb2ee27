"""A short, seeded round of every kind, and a runner that notices what it is there to notice."""

from pathlib import Path

import pytest

from tests.fuzz import runner


@pytest.mark.parametrize("kind", runner.KINDS)
def test_damaged_files_are_read_or_refused(kind: str) -> None:
    outcome = runner.fuzz(kind, 8, seed=1)
    assert not outcome.failures, outcome.failures
    assert sum(outcome.classes.values()) == 8


def test_tracebacks_hangs_ends_and_memory_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SECONDS", 5.0)
    monkeypatch.setattr(runner, "MEGABYTES", 200)
    outcome = runner.fuzz("_faulty", 6, keep=tmp_path / "kept")
    assert [name for name, _ in outcome.failures] == ["raises", "hangs", "dies", "swells"]
    assert outcome.classes["read"] == 3
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {"raises", "hangs", "dies", "swells"}
