"""Predicts the scaling of data-parallel training from a step's time and the gradient's size.

    python benchmarks/scaling.py --step-ms 23 --parameters 153e6

A prediction, no measurement. Each process keeps its batch (weak scaling). Gradients are reduced by
a ring in float32: every process sends and receives 2 (N - 1) / N of them. DDP overlaps that with
the backward pass, two thirds of a step, but for the last bucket; what does not fit into it is added
to the step. Across nodes the slowest link counts, shared by the processes of a node.

Source of the ring's cost: Patarasuk & Yuan, J. Parallel Distrib. Comput. 69 (2009) 117.
"""

from __future__ import annotations

import argparse
import json

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-ms", type=float, required=True, help="of one process, measured")
    parser.add_argument("--parameters", type=float, required=True, help="that train")
    parser.add_argument("--per-node", type=int, default=8)
    parser.add_argument("--inside-gb", type=float, default=300, help="GB/s inside a node")
    parser.add_argument("--across-gb", type=float, nargs="*", default=[10, 40, 200])
    parser.add_argument("--processes", type=int, nargs="*", default=[2, 4, 8, 16, 32, 64])
    args = parser.parse_args()
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
