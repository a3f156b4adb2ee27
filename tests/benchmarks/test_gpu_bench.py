"""The command that measures everything on a GPU keeps its time, and goes on after failures."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import gpu
import gpu_tables
import pytest
import scaling

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

#: In place of the worker: does what a cell tells it to.
WORKER = """
import json, sys, time
given = json.loads(sys.stdin.read())
print("cell: " + json.dumps({"device": given["settings"]["device"], "torch": "2", "cuda": "1"}))
sys.stdout.flush()
for cell in given["cells"]:
    if cell["do"] == "die":
        sys.exit("Segmentation fault")
    if cell["do"] == "hang":
        time.sleep(60)
    if cell["do"] == "memory":
        print("cell: " + json.dumps({"status": "out of memory", "seconds": 1}))
    else:
        print("noise")
        print("cell: " + json.dumps({"status": "measured", "ms": 1.0, "materials_per_second": 2}))
    sys.stdout.flush()
"""


def cell(number: int, do: str = "work") -> dict[str, Any]:
    return {"kind": "loader", "batch": number, "workers": 0, "do": do}


def bench(folder: Path, budget: float = 60, limit: float = 30, device: str = "card") -> gpu.Bench:
    command = [sys.executable, "-c", WORKER]
    return gpu.Bench(folder, {"device": device}, time.monotonic() + budget, limit, command)


def statuses(folder: Path) -> list[str]:
    results = json.loads((folder / "results.json").read_text())
    return [entry["status"] for entry in results["cells"]]


def test_what_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    cells = [cell(0), cell(1, "die"), cell(2, "memory"), cell(3)]
    bench(tmp_path).run(cells)
    assert statuses(tmp_path) == ["measured", "failed", "out of memory", "measured"]
    table = (tmp_path / "results.md").read_text()
    assert "loader 1 0 die: failed the process ended (1): Segmentation fault" in table
    assert "loader 2 0 memory: out of memory" in table


def test_a_hanging_cell_is_ended_and_the_next_is_measured(tmp_path: Path) -> None:
    bench(tmp_path, limit=3).run([cell(0, "hang"), cell(1)])
    assert statuses(tmp_path) == ["failed", "measured"]
    assert "took longer than 3 s" in (tmp_path / "results.md").read_text()


def test_the_time_is_kept_and_the_same_command_goes_on(tmp_path: Path) -> None:
    cells = [cell(0), cell(1, "hang"), cell(2)]
    start = time.monotonic()
    bench(tmp_path, budget=4).run(cells)
    assert time.monotonic() - start < 30
    assert statuses(tmp_path) == ["measured"]
    assert "2 cells were not reached" in (tmp_path / "results.md").read_text()
    cells[1] = cell(1)
    again = bench(tmp_path)
    assert again.is_known(cells[0])
    again.run(cells)
    assert statuses(tmp_path) == ["measured"] * 3


def test_without_a_device_it_ends_at_once(tmp_path: Path) -> None:
    absent = bench(tmp_path)
    absent.command = [sys.executable, "-c", "raise RuntimeError('no card')"]
    with pytest.raises(SystemExit, match=r"device card does not work: .* no card"):
        absent.run([cell(0), cell(1)])


def test_figures_of_another_card_are_not_mixed_in(tmp_path: Path) -> None:
    bench(tmp_path).run([cell(0)])
    bench(tmp_path, device="another").run([cell(1)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["about"]["device"] == "another"
    assert [entry["cell"]["batch"] for entry in results["cells"]] == [1]


def test_every_task_size_and_mode_is_in_the_plan_the_most_wanted_first() -> None:
    cells = gpu.plan(smoke=False)
    assert len({json.dumps(c) for c in cells}) == len(cells)
    steps = [c for c in cells if c["kind"] == "step"]
    found = {(c["size"], c["task"], c["mode"]) for c in steps}
    for size in gpu.SIZES:
        for task in gpu.TASKS:
            assert {(size, task, "eager"), (size, task, "compiled")} <= found
    assert {c["mode"] for c in cells[:6] if c["kind"] == "step"} == {"eager", "compiled"}
    assert all(c["size"] == "base" for c in cells[:6] if c["kind"] == "step")
    groups = gpu.grouped(cells)
    assert [c for group in groups for c in group] == cells
    for group in groups:
        assert len({(c["mode"], c["size"]) for c in group if "mode" in c}) <= 1


def step(**changes: Any) -> dict[str, Any]:
    cell_ = {"kind": "step", "size": "base", "task": "MaskedXRD", "mode": "compiled"}
    cell_ |= {"precision": "bf16", "batch": 512}
    figures = {
        "status": "measured",
        "parameters": 150_000_000,
        "step_ms": 23.0,
        "materials_per_second": 22_000,
        "mfu": 0.41,
        "waiting": 0.03,
        "rendering": 0.04,
        "kernels": 900,
        "peak_memory_mib": 30_000,
        "warm_up_seconds": 60.0,
    }
    return {"cell": cell_, **figures, **changes}


def test_the_page_gets_the_table_with_the_card_and_the_goals(tmp_path: Path) -> None:
    results = {"about": {"device": "A card", "torch": "2", "cuda": "13"}, "cells": [step()]}
    table = gpu_tables.markdown(results)
    assert "**A card**" in table
    assert "MFU 41.0 % (goal ≥ 40.0 %): reached" in table
    assert "waiting 3.0 % (goal < 2.0 %): missed" in table
    assert "| base | MaskedXRD | bf16 | compiled | 512 | 23.00 | 22000 | 41.0 % |" in table
    page = tmp_path / "speed.md"
    page.write_text(f"before\n{gpu_tables.BEGIN}\nold\n{gpu_tables.END}\nafter\n")
    with pytest.raises(SystemExit, match="missing"):
        gpu_tables.write_docs(page, tmp_path / "results.md")
    (tmp_path / "results.md").write_text(table)
    for _ in range(2):
        gpu_tables.write_docs(page, tmp_path / "results.md")
        text = page.read_text()
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert text.count("A card") == 1
        assert "old" not in text


def test_docs_have_a_place_for_the_figures() -> None:
    page = (BENCHMARKS.parent / "docs" / "speed.md").read_text()
    assert page.index(gpu_tables.BEGIN) < page.index(gpu_tables.END)


def test_scaling_is_predicted_from_the_fastest_measured_step() -> None:
    slow, fast = step(mode="eager", materials_per_second=10), step()
    entries = [entry["cell"] | entry for entry in (slow, fast)]
    rows = scaling.predicted(entries)
    assert [row["across_gb"] for row in rows] == list(scaling.NETWORKS)
    # The numbers of docs/distributed.md, of a guess that is this step.
    by_network = {row["across_gb"]: row["efficiency"] for row in rows}
    assert by_network[10][64] == pytest.approx(0.18, abs=0.01)
    assert by_network[40][64] == pytest.approx(0.61, abs=0.02)
    assert by_network[200][16] == pytest.approx(0.99, abs=0.01)
