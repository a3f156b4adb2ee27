"""The figures of `benchmarks/gpu.py` as Markdown, and their place in docs/speed.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaling import predicted

BEGIN, END = "<!-- bench-gpu: begin -->", "<!-- bench-gpu: end -->"
#: What is to be reached by base, compiled, in bfloat16.
GOALS = {
    "MFU": ("mfu", 0.40, True),
    "waiting": ("waiting", 0.02, False),
    "rendering": ("rendering", 0.05, False),
}
OVERHEAD = 0.05


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _table(header: list[str], rows: list[list[Any]]) -> list[str]:
    if not rows:
        return []
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(value) for value in line) + " |" for line in lines] + [""]


def _measured(results: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [
        entry["cell"] | entry
        for entry in results["cells"]
        if entry["cell"]["kind"] == kind and entry["status"] == "measured"
    ]


def _heading(results: dict[str, Any]) -> list[str]:
    about = results["about"]
    count = f", {about['count']} of them" if about.get("count", 1) > 1 else ""
    line = f"**{about.get('device', 'no device')}**{count}; torch {about.get('torch')}"
    line += f", CUDA {about.get('cuda')}."
    for found in _measured(results, "device"):
        line += f" A product of {found['n']}² in bfloat16 reaches {found['bf16_tflop_per_second']}"
        line += f" TFLOP/s, a copy {found['copied_gb_per_second']} GB/s (read and written)."
    return [line, ""]


def _steps(results: dict[str, Any]) -> list[str]:
    order = {"tiny": 0, "small": 1, "base": 2}
    steps = sorted(
        _measured(results, "step"),
        key=lambda s: (order[s["size"]], s["task"], s["precision"], s["mode"], s["batch"]),
    )
    rows = [
        [
            s["size"],
            s["task"],
            s["precision"],
            s["mode"],
            s["batch"],
            f"{s['step_ms']:.2f}",
            s["materials_per_second"],
            _percent(s["mfu"]),
            _percent(s["waiting"]),
            _percent(s["rendering"]),
            s["kernels"] or "–",
            s["peak_memory_mib"],
            s["warm_up_seconds"],
        ]
        for s in steps
    ]
    header = "size, task, precision, mode, batch, step (ms), materials/s, MFU, waiting, rendering"
    header += ", kernels, memory (MiB), warm-up (s)"
    return _table(header.split(", "), rows)


def _others(results: dict[str, Any]) -> list[str]:
    lines = _table(
        ["size", "mode", "batch", "bare loop, ms", "Lightning, ms", "overhead"],
        [
            [
                f["size"],
                f["mode"],
                f["batch"],
                f["bare_ms"],
                f["lightning_ms"],
                _percent(f["overhead"]),
            ]
            for f in _measured(results, "lightning")
        ],
    )
    lines += _table(
        ["yardstick", "size", "mode", "batch", "step, ms", "materials/s", "MFU", "kernels"],
        [
            [
                *(y[key] for key in ("model", "size", "mode", "batch", "step_ms")),
                *(y["materials_per_second"], _percent(y["mfu"]), y["kernels"] or "–"),
            ]
            for y in _measured(results, "yardstick")
        ],
    )
    alone = [
        ["rendering, " + ("all changes" if r["augment"] else "plain"), r]
        for r in _measured(results, "rendering")
    ]
    alone += [[f"loader, {r['workers']} workers", r] for r in _measured(results, "loader")]
    lines += _table(
        ["alone", "batch", "ms", "materials/s"],
        [[name, r["batch"], r["ms"], r["materials_per_second"]] for name, r in alone],
    )
    lines += _table(
        ["attention, forward and backward", "batch", "mask, ms", "by a feature, ms", "no mask, ms"],
        [
            [f"{a['size']}, {a['queries']} to {a['keys']}", a["batch"]]
            + [a[way] for way in ("masked_ms", "by_feature_ms", "unmasked_ms")]
            for a in _measured(results, "attention")
        ],
    )
    return lines


def _goals(results: dict[str, Any]) -> list[str]:
    lines = []
    for step in _measured(results, "step"):
        if (step["size"], step["mode"], step["precision"]) == ("base", "compiled", "bf16"):
            for name, (key, goal, higher) in GOALS.items():
                value = step[key]
                if value is not None:
                    reached = value >= goal if higher else value < goal
                    word = "reached" if reached else "missed"
                    sign = "≥" if higher else "<"
                    what = f"{step['task']}, batch {step['batch']}: {name} {_percent(value)}"
                    lines.append(f"- {what} (goal {sign} {_percent(goal)}): {word}")
    for found in _measured(results, "lightning"):
        if (found["size"], found["mode"]) == ("base", "compiled"):
            word = "reached" if found["overhead"] < OVERHEAD else "missed"
            value = _percent(found["overhead"])
            lines.append(f"- Lightning's overhead {value} (goal < {_percent(OVERHEAD)}): {word}")
    return ["Goals of `base`, compiled, bf16:", "", *lines, ""] if lines else []


def _scaling(results: dict[str, Any]) -> list[str]:
    rows = predicted(_measured(results, "step"))
    if not rows:
        return []
    text = "Predicted from these steps (`benchmarks/scaling.py`), not measured: rate of N processes"
    text += " over N times that of one, 8 a node with 300 GB/s inside, by the network of a node."
    counts = list(rows[0]["efficiency"])
    table = _table(
        ["step", "network, GB/s", *(str(n) for n in counts)],
        [[r["name"], r["across_gb"], *(f"{r['efficiency'][n]:.2f}" for n in counts)] for r in rows],
    )
    return [text, "", *table]


def _failures(results: dict[str, Any]) -> list[str]:
    lines = []
    for entry in results["cells"]:
        if entry["status"] != "measured":
            named = " ".join(str(v) for k, v in entry["cell"].items() if k != "trace")
            lines.append(f"- {named}: {entry['status']} {entry.get('error', '')}".rstrip())
    left = len(results.get("not_reached", []))
    if left:
        lines.append(
            f"- {left} cells were not reached in the time; the same command goes on there."
        )
    return ["Not measured:", "", *lines, ""] if lines else []


def markdown(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = _heading(results)
    for part in (_goals, _steps, _others, _scaling, _failures):
        lines += part(results)
    return "\n".join(lines).rstrip() + "\n"


def write_docs(page: Path, table: Path) -> None:
    """Put the table between the page's marks.

    Raises:
        SystemExit: if there is no table, or the page has no marks.
    """
    text = page.read_text()
    if not table.exists() or BEGIN not in text or END not in text:
        raise SystemExit(f"{table} or the marks in {page} are missing: run `make bench-gpu` first")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{table.read_text()}\n{END}{after}")
