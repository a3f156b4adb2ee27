"""Notebooks run from their first to their last cell, and hold no outputs.

Their cells are plain Python, so this process runs them: a kernel and what it needs would be thirty
packages more for the same.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from tests.documentation.pages import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    content = json.loads(path.read_text())
    return ["".join(c["source"]) for c in content["cells"] if c["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem == "first_hour" and not (ROOT / "models" / "properties" / "model.json").is_file():
        pytest.skip("the models that come with the clone are not there")
    monkeypatch.chdir(ROOT / "notebooks")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, text in enumerate(cells(path, "code")):
        exec(compile(text, f"{path.name}[{number}]", "exec"), names)
    if path.stem == "first_hour":
        assert [row["formula"] for row in names["answers"]] == ["NaCl", "MgO", "NiO"]
        assert len(names["pictures"]) == 1
        assert names["found"][0]["formula"] == "NaCl"
    if path.stem == "new_task":
        assert names["after"]["val/loss"] < 0.9 * names["before"]["val/loss"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs_and_have_unique_cells(path: Path) -> None:
    content = json.loads(path.read_text())
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for text in cells(path, "code"):
        ast.parse(text)
