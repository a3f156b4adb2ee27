"""Everything about the GPU in one command, within ten minutes: `make bench-gpu`.

    python benchmarks/gpu.py [--output runs/bench-gpu] [--budget 540] [--store STORE]
    python benchmarks/gpu.py --device cpu --smoke              # does it run at all? A minute.
    python benchmarks/gpu.py --output runs/bench-gpu --write-docs    # its table into docs/speed.md

Cells (a task, a size, a mode, a batch; the yardsticks; rendering, loader, Lightning's overhead) are
measured by processes of their own, the most wanted first, until the time is up. What fails or needs
too much memory is recorded, and the rest goes on. `results.json` and `results.md` are written after
each cell. The same command continues: what was measured on the same card is not measured again.
Exit code 1: nothing could be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from gpu_tables import markdown, write_docs

ROOT = Path(__file__).parents[1]
MARK = "cell: "
SIZES = ("base", "tiny", "small")
TASKS = ("MaskedXRD", "Regression", "Contrastive", "MaskedContrastive")
MODES = ("eager", "compiled", "reduce-overhead")
#: Batches for all modes, and those up to which eager steps are tried until memory is full.
USUAL = {"tiny": 1024, "small": 512, "base": 512}
FURTHER = {"tiny": (4096, 8192), "small": (1024, 2048, 4096), "base": (128, 1024, 2048, 4096)}
#: Materials of the synthetic store: its training part holds the largest batch.
ROWS = 12_288

Cell = dict[str, Any]


def plan(smoke: bool) -> list[Cell]:
    """All cells, the most wanted first."""
    if smoke:
        return _smoke()
    cells: list[Cell] = [{"kind": "device", "n": 8192, "copied_mib": 4096}]

    def step(size: str, task: str, mode: str, batch: int = 0, precision: str = "bf16") -> Cell:
        trace = not batch and precision == "bf16"
        cell = {"kind": "step", "size": size, "task": task, "mode": mode, "precision": precision}
        return cell | {"batch": batch or USUAL[size], "trace": trace}

    def beside(size: str, kind: str, **more: Any) -> Cell:
        return {"kind": kind, "size": size, "batch": USUAL[size], "precision": "bf16", **more}

    def lightning(size: str, mode: str) -> Cell:
        return beside(size, "lightning", task="MaskedXRD", mode=mode)

    # What is to be reached: base, compiled; then small models, whose steps are spent on launches.
    cells += [step("base", task, "eager") for task in TASKS[:2]]
    cells += [step("base", task, "compiled") for task in TASKS[:2]]
    cells += [lightning("base", "compiled")]
    cells += [{"kind": "loader", "batch": 512, "workers": workers} for workers in (0, 4)]
    cells += [{"kind": "rendering", "batch": 512, "augment": augment} for augment in (False, True)]
    for model in ("nn.TransformerEncoder", "timm ViT"):
        cells.append(beside("base", "yardstick", model=model, mode="compiled"))
    for size in ("tiny", "small"):
        cells += [step(size, task, mode) for mode in MODES for task in TASKS[:2]]
        cells += [lightning(size, "eager")]
    for queries, keys in ((13, 13), (51, 13)):
        cells.append(beside("base", "attention", queries=queries, keys=keys))
    cells += [step(size, task, "eager") for size in SIZES for task in TASKS[2:]]
    cells += [step("base", "MaskedXRD", "reduce-overhead")]
    cells += [step(size, "MaskedXRD", "eager", batch) for size in SIZES for batch in FURTHER[size]]
    for size in SIZES:
        cells += [
            beside(size, "yardstick", model=model, mode=mode)
            for model in ("nn.TransformerEncoder", "timm ViT")
            for mode in ("eager", "compiled")
        ]
    cells += [step(size, "MaskedXRD", "eager", 0, "fp32") for size in SIZES]
    cells += [step("base", "MaskedXRD", "compiled", batch) for batch in FURTHER["base"][1:3]]
    cells += [step(size, task, "compiled") for size in SIZES for task in TASKS[2:]]
    cells += [step(s, task, "reduce-overhead") for s in ("tiny", "small") for task in TASKS[2:]]
    cells += [
        step(size, task, "eager", batch)
        for size in SIZES
        for task in TASKS[1:]
        for batch in FURTHER[size]
    ]
    return list({json.dumps(cell): cell for cell in cells}.values())


def _smoke() -> list[Cell]:
    of_tiny = {"size": "tiny", "batch": 8, "precision": "fp32"}
    steps = [
        {"kind": "step", **of_tiny, "task": task, "mode": "eager", "trace": task == "MaskedXRD"}
        for task in TASKS
    ]
    return [
        {"kind": "device", "n": 64, "copied_mib": 1},
        *steps,
        {"kind": "step", **of_tiny, "task": "Contrastive", "mode": "compiled", "trace": False},
        {"kind": "lightning", **of_tiny, "task": "MaskedXRD", "mode": "eager"},
        {"kind": "loader", "batch": 8, "workers": 0},
        {"kind": "rendering", "batch": 8, "augment": True},
        {"kind": "yardstick", **of_tiny, "model": "nn.TransformerEncoder", "mode": "eager"},
        {"kind": "yardstick", **of_tiny, "model": "timm ViT", "mode": "eager"},
        {"kind": "attention", **of_tiny, "queries": 13, "keys": 13},
    ]


def grouped(cells: list[Cell]) -> list[list[Cell]]:
    """Neighbouring cells of one mode and size share a process, which takes seconds to start."""
    groups: list[list[Cell]] = []
    current: Any = None
    for cell in cells:
        # What has no mode compiles nothing and goes with any.
        kind = (cell["mode"], cell["size"]) if "mode" in cell else current
        if groups and (current is None or kind == current):
            groups[-1].append(cell)
        else:
            groups.append([cell])
        current = kind
    return groups


class Bench:
    """Runs cells in processes of their own and keeps what they find.

    Args:
        folder: Where results are written.
        settings: For the worker.
        deadline: When to stop, on the clock of `time.monotonic`.
        cell_limit: Seconds after which a cell counts as hanging.
        command: The worker.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        deadline: float,
        cell_limit: float,
        command: list[str],
    ) -> None:
        self.folder, self.settings = folder, settings
        self.deadline, self.cell_limit, self.command = deadline, cell_limit, command
        self.about: dict[str, Any] = {}
        self.found: dict[str, dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "results.json"
        if path.exists():
            before = json.loads(path.read_text())
            self.about = before["about"]
            self.found = {_key(entry["cell"]): entry for entry in before["cells"]}

    def is_known(self, cell: Cell) -> bool:
        """Whether a cell was measured, or did not fit; failures are tried again."""
        entry = self.found.get(_key(cell))
        return entry is not None and entry["status"] in ("measured", "out of memory")

    def run(self, cells: list[Cell]) -> None:
        """Measure what is not known, as long as there is time."""
        for group in grouped(cells):
            left = [cell for cell in group if not self.is_known(cell)]
            while left and time.monotonic() < self.deadline:
                left = left[self._process(left) :]
        self.write(cells)

    def _process(self, cells: list[Cell]) -> int:
        """Let one process measure cells; how many of them are settled."""
        # The project need not be installed.
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps({"settings": self.settings, "cells": cells}))
            process.stdin.close()
            lines: queue.Queue[str | None] = queue.Queue()
            threading.Thread(target=_read, args=(process, lines), daemon=True).start()
            settled, reason, about = 0, "", None
            try:
                about = self._next(lines)
                if about is not None:
                    self._take(about)
                while about is not None and settled < len(cells):
                    answer = self._next(lines)
                    if answer is None:
                        break
                    self._keep(cells[settled], answer)
                    settled += 1
            except TimeoutError as late:
                reason = str(late)
            finally:
                _end(process)
            if settled < len(cells) and time.monotonic() < self.deadline:
                errors.seek(0)
                said = errors.read().strip().splitlines() or ["said nothing"]
                text = reason or f"the process ended ({process.returncode}): {said[-1][:300]}"
                if about is None and not self.found:
                    raise SystemExit(f"device {self.settings['device']} does not work: {text}")
                self._keep(cells[settled], {"status": "failed", "error": text})
                settled += 1
            return settled

    def _next(self, lines: queue.Queue[str | None]) -> dict[str, Any] | None:
        left = self.deadline - time.monotonic()
        try:
            line = lines.get(timeout=max(0.0, min(left, self.cell_limit)))
        except queue.Empty:
            raise TimeoutError(f"took longer than {self.cell_limit:g} s") from None
        return None if line is None else json.loads(line)

    def _take(self, about: dict[str, Any]) -> None:
        if self.about and self.about != about:
            self.found.clear()  # of another card, or another torch
        self.about = about

    def _keep(self, cell: Cell, answer: dict[str, Any]) -> None:
        self.found[_key(cell)] = {"cell": cell, **answer}
        shown = {k: answer[k] for k in ("step_ms", "ms", "mfu", "error") if answer.get(k)}
        named = " ".join(str(value) for key, value in cell.items() if key != "trace")
        print(f"{named}: {answer['status']} {shown or ''}", flush=True)
        self.write()

    def write(self, cells: list[Cell] | None = None) -> None:
        """Write both files; `cells`, where known, tells what was not reached."""
        entries = list(self.found.values())
        missing = [cell for cell in cells or () if _key(cell) not in self.found]
        results = {"about": self.about, "cells": entries, "not_reached": missing}
        for name, text in (
            ("results.json", json.dumps(results, indent=1)),
            ("results.md", markdown(results)),
        ):
            part = self.folder / f".{name}"
            part.write_text(text)
            os.replace(part, self.folder / name)


def _key(cell: Cell) -> str:
    return json.dumps({key: value for key, value in cell.items() if key != "trace"})


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(MARK):
            lines.put(line.removeprefix(MARK))
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process with the processes that it started: the loader's, the compiler's."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench-gpu")
    parser.add_argument("--budget", type=float, default=540, help="seconds (540)")
    parser.add_argument("--cell-limit", type=float, default=180, help="seconds of a cell (180)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--store", type=Path, help="synthetic, with lines as many as real ones'")
    parser.add_argument("--smoke", action="store_true", help="a minute of small cells")
    parser.add_argument("--only", help="cells whose description contains this")
    parser.add_argument("--steps", type=int, help="steps of a block (20)")
    parser.add_argument("--rounds", type=int, help="blocks (3)")
    parser.add_argument(
        "--write-docs", action="store_true", help="write docs/speed.md; no measuring"
    )
    args = parser.parse_args()
    deadline = time.monotonic() + args.budget
    if args.write_docs:
        write_docs(ROOT / "docs" / "speed.md", args.output / "results.md")
        return 0
    store = args.store
    if store is None:
        sys.path.append(str(ROOT))  # the project need not be installed
        from stream import make_store

        store = args.output / f"store-{256 if args.smoke else ROWS}"
        make_store(store, 256 if args.smoke else ROWS, None)
    settings = {
        "device": args.device,
        "store": str(store.resolve()),
        "steps": args.steps or (1 if args.smoke else 20),
        "rounds": args.rounds or (1 if args.smoke else 3),
        "warm_up": 1 if args.smoke else 5,
        "workers": 0 if args.smoke else 4,
        "backend": "aot_eager_decomp_partition" if args.smoke else "inductor",
        "traces": str((args.output / "traces").resolve()),
    }
    cells = plan(args.smoke)
    if args.only:
        cells = [cell for cell in cells if args.only in json.dumps(cell)]
    command = [sys.executable, str(Path(__file__).with_name("gpu_worker.py"))]
    bench = Bench(args.output, settings, deadline, args.cell_limit, command)
    bench.run(cells)
    print((args.output / "results.md").read_text())
    return int(not any(entry["status"] == "measured" for entry in bench.found.values()))


if __name__ == "__main__":
    sys.exit(main())
