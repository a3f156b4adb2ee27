"""Start-up: `xxact --help`, and `xxact fit` to the end of its first step.

    python benchmarks/startup.py --store data/prototypes

Seconds by the wall and of CPU time, best of some starts with warm file caches. Sanity validation is
part of a start, as the recipe has it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

ROOT = Path(__file__).parents[1]
MARK = "first step done at "


class FirstStep(Callback):
    """Says when the first step is done."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Print the time, once: the run has one step."""
        print(f"\n{MARK}{time.time()}", flush=True)


def start(words: list[str]) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.time()
    result = subprocess.run(
        [sys.executable, "-m", "lightning_modules", *words],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    end = time.time()
    marks = [line for line in result.stdout.splitlines() if line.startswith(MARK)]
    if marks:
        end = float(marks[0].removeprefix(MARK))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": end - begin, "cpu_seconds_to_exit": cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="data/prototypes")
    parser.add_argument("--config", default="configs/pretrain_mxm.yaml")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    for name, limit in (("xxact --help", 2.0), ("xxact fit, to the first step", 20.0)):
        found = []
        for _ in range(args.repeat + 1):
            with tempfile.TemporaryDirectory() as folder:
                fit = ["fit", f"--config={args.config}", f"--data.stores=[{args.store}]"]
                fit += [f"--run={folder}/run", "--trainer.max_steps=1"]
                fit += ["--trainer.callbacks+=benchmarks.startup.FirstStep"]
                found.append(start(fit if "fit" in name else ["--help"]))
        best = {key: round(min(f[key] for f in found[1:]), 2) for key in found[0]}
        load = round(os.getloadavg()[0], 1)
        print(json.dumps({"start": name, **best, "limit": limit, "load": load}), flush=True)


if __name__ == "__main__":
    main()
