"""Predicts the scaling of data-parallel training from a step's time and the gradient's size.

    python benchmarks/scaling.py --measured runs/bench-gpu/results.json   # from `make bench-gpu`
    python benchmarks/scaling.py --step-ms 23 --parameters 153e6          # from a guess

A prediction, no measurement. Each process keeps its batch (weak scaling). Gradients are reduced by
a ring in float32: every process sends and receives 2 (N - 1) / N of them. DDP overlaps that with
the backward pass, two thirds of a step, but for the last bucket; what does not fit into it is added
to the step. Across nodes the slowest link counts, shared by the processes of a node.

Source of the ring's cost: Patarasuk & Yuan, J. Parallel Distrib. Comput. 69 (2009) 117.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

#: Gigabytes a second of a node's network, and numbers of processes, that are told.
NETWORKS, PROCESSES = (10, 40, 200), (2, 4, 8, 16, 32, 64)
BUCKET = 25 * 2**20


def efficiency(
    step: float, gradient: float, processes: int, per_node: int, inside: float, across: float
) -> float:
    """Predicted rate of N processes over N times that of one.

    Args:
        step: Seconds of a step of one process, forward, backward and optimizer.
        gradient: Bytes.
        processes: Number N of processes.
        per_node: Processes a node.
        inside: Bytes a second between processes of a node.
        across: Bytes a second of a node's network.
    """
    if processes == 1:
        return 1.0
    # One ring crosses each node's border once, so the whole network is the ring's.
    link = inside if processes <= per_node else min(inside, across)
    factor = 2 * (processes - 1) / processes / link
    last = min(BUCKET, gradient)
    exposed = factor * last + max(0.0, factor * (gradient - last) - 2 / 3 * step)
    return step / (step + exposed)


def predicted(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scaling of the fastest step of each size and task that was measured, by network.

    Args:
        steps: Cells of `benchmarks/gpu.py`: `size`, `task`, `batch`, `precision`, `mode`,
            `step_ms`, `materials_per_second` and `parameters`.

    Returns:
        A row for each step and network: `name`, `across_gb` (GB/s of a node) and `efficiency`, by
        the number of processes.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for step in steps:
        key = step["size"], step["task"]
        rate = step["materials_per_second"]
        if key not in best or rate > best[key]["materials_per_second"]:
            best[key] = step
    rows = []
    for step in best.values():
        for across in NETWORKS:
            found = {
                n: efficiency(
                    step["step_ms"] / 1e3, 4 * step["parameters"], n, 8, 300e9, across * 1e9
                )
                for n in PROCESSES
            }
            name = (
                f"{step['size']}, {step['task']}, {step['batch']} a GPU, {step['step_ms']:.1f} ms"
            )
            rows.append({"name": name, "across_gb": across, "efficiency": found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", type=Path, help="results.json of benchmarks/gpu.py")
    parser.add_argument("--step-ms", type=float, help="of one process")
    parser.add_argument("--parameters", type=float, help="that train")
    parser.add_argument("--per-node", type=int, default=8)
    parser.add_argument("--inside-gb", type=float, default=300, help="GB/s inside a node")
    parser.add_argument("--across-gb", type=float, nargs="*", default=NETWORKS)
    parser.add_argument("--processes", type=int, nargs="*", default=PROCESSES)
    args = parser.parse_args()
    if args.measured is not None:
        cells = json.loads(args.measured.read_text())["cells"]
        steps = [c["cell"] | c for c in cells if c["cell"]["kind"] == "step"]
        for row in predicted([step for step in steps if step["status"] == "measured"]):
            print(json.dumps(row))
        return
    if args.step_ms is None or args.parameters is None:
        parser.error("give --measured, or --step-ms and --parameters")
    for across in args.across_gb:
        found = {
            n: round(
                efficiency(
                    args.step_ms / 1e3,
                    4 * args.parameters,
                    n,
                    args.per_node,
                    args.inside_gb * 1e9,
                    across * 1e9,
                ),
                2,
            )
            for n in args.processes
        }
        print(json.dumps({"predicted": "efficiency", "across_gb_per_s": across, **found}))


if __name__ == "__main__":
    main()
