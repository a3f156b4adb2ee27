"""What stands around the code: citation, container, workflow; they name what there is."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for key in ("version", "license"):
        assert citation[key] == project[key]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    [paper] = citation["references"]
    assert (
        paper["identifiers"][0]["value"].removeprefix("arXiv:") in (ROOT / "README.md").read_text()
    )


def test_the_container_runs_what_the_script_runs() -> None:
    [step] = re.findall(r"^RUN (bash .*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert step == 'bash .ci/container install "$VARIANT"'
    told = subprocess.run(
        ["bash", ".ci/container", "install", "rocm"], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 2
    assert "'rocm'; it is cpu or cuda" in told.stderr
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).samefile(ROOT / "Dockerfile")
    assert container["postCreateCommand"].startswith("bash .ci/container install")


def test_the_workflow_runs_what_must_pass() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    [job] = workflow["jobs"].values()
    assert job["steps"][-1]["run"] == "bash .ci/run"
    assert (ROOT / ".ci/run").is_file()
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert {"pip", "docker"} <= {update["package-ecosystem"] for update in updates}
