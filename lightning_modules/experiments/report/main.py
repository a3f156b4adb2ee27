"""`xxact report`: figures (PNG), tables (Markdown, CSV) and numbers (JSON) of finished runs."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from datamodules.io.arguments import ArgumentParser

STUDIES = ("convergence", "representation", "scaling")
#: Reports that another module makes, with arguments of its own.
OTHERS = {
    "curves": "lightning_modules.experiments.report.curves",
    "evidence": "lightning_modules.experiments.assessment.evidence",
    "polymorphs": "lightning_modules.experiments.assessment.polymorphs",
    "retrieval": "lightning_modules.experiments.assessment.retrieval",
    "robustness": "lightning_modules.experiments.assessment.robustness",
}


def main(args: Sequence[str]) -> int:
    """Run `xxact report`."""
    words = list(args)
    if words and words[0] in OTHERS:
        return int(importlib.import_module(OTHERS[words[0]]).main(words[1:]))
    parser = ArgumentParser(prog="xxact report", description=__doc__)
    parser.add_argument(
        "kind",
        choices=STUDIES,
        help="which study; also, each with its own --help: " + ", ".join(OTHERS),
    )
    parser.add_argument("--study", type=Path, required=True, help="the study's folder")
    parser.add_argument(
        "--output", type=Path, help="folder to write (default: reports/KIND in the study's)"
    )
    given = parser.parse_args(words)
    output: Path = given.output or given.study / "reports" / given.kind
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file; give a folder with --output")
    made = importlib.import_module(f"{__package__}.{given.kind}").report(given.study)
    written = made.write(output)
    print(written[0].read_text(encoding="utf-8"))
    print("\n".join(map(str, written)))
    return 0
