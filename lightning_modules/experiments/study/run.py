"""One run of a study: its commands, and its result once it has finished.

A run's folder holds, besides what `xxact fit` writes, `state.json` (what the run is, which commands
are done), `log.txt`, and either `result.json` or `failure.json`.
"""

import csv
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.io.files import replace_file
from datamodules.store.collection import Collection
from datamodules.store.splits import SplitConfig, split_rows
from lightning_modules.experiments.processes import xxact
from lightning_modules.experiments.recipes import Recipe, digest
from lightning_modules.training.recipe_files import read_yaml
from lightning_modules.training.run_folder import CHECKPOINTS, CONFIG, METRICS_FINAL, unfinished

STATE, RESULT, FAILURE, LOG = "state.json", "result.json", "failure.json", "log.txt"
METRICS = "metrics.jsonl"
#: Among the errors of a run: whether a test material's chemical system was not in training.
NEW_SYSTEM = "new_system"

Factor = str | float | int


@dataclass(frozen=True)
class Run:
    """A run; subclasses say which commands it takes and what comes out.

    Attributes:
        name: Its folder within the study's.
        factors: What tells it from its siblings: start, seed, learning rate …
        needs: Names of runs that must be finished before.
    """

    name: str
    factors: dict[str, Factor] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on, but for the runs it needs."""
        raise NotImplementedError

    def commands(self, root: Path) -> Iterator[tuple[str, list[str]]]:
        """Names and command lines, one after the other; the next is asked for when one is done."""
        raise NotImplementedError

    def collect(self, root: Path) -> dict[str, Any]:
        """The result, from what the commands have written."""
        raise NotImplementedError


@dataclass(frozen=True)
class Training(Run):
    """A training, and a test of its last or best checkpoint.

    Attributes:
        recipe: Arguments of `xxact fit`.
        test: Which checkpoint to test.
    """

    recipe: Recipe = field(default_factory=Recipe)
    test: Literal["none", "last", "best"] = "none"

    def identity(self) -> dict[str, Any]:
        """Arguments and recipes."""
        return {**self.recipe.identity(), "test": self.test}

    def commands(self, root: Path) -> Iterator[tuple[str, list[str]]]:
        """`xxact fit`, then `xxact test`."""
        folder = root / self.name
        start = [
            f"--model.init_from={root / needed / CHECKPOINTS / 'last.ckpt'}"
            for needed in self.needs
        ]
        yield (
            "fit",
            xxact(
                "fit",
                *(Recipe(set=ALONE) + self.recipe).arguments(),
                *start,
                f"--run={folder}",
                "--resume=auto",
            ),
        )
        if self.test != "none":
            yield (
                "test",
                xxact(
                    "test",
                    f"--config={folder / CONFIG}",
                    f"--ckpt_path={_checkpoint(folder, self.test)}",
                ),
            )

    def collect(self, root: Path) -> dict[str, Any]:
        """Curve, final and test metrics, size of the training split, errors of each formula."""
        folder = root / self.name
        if reason := unfinished(folder):
            raise ValueError(reason)
        data = read_yaml(folder / CONFIG)["data"]
        check_split(SplitConfig(**data["split"]), root, self.needs)
        lines = (folder / METRICS).read_text().splitlines()
        result: dict[str, Any] = {
            "curve": [json.loads(line) for line in lines],
            "final": json.loads((folder / METRICS_FINAL).read_text()),
            "n_train": training_size(data),
        }
        if self.test != "none":
            result["test"] = json.loads((folder / "metrics.test.json").read_text())
            table = folder / "predictions.test.csv"
            if table.is_file():
                result["errors"] = absolute_errors(table)
                result["errors"][NEW_SYSTEM] = new_systems(data)
        return result


#: Of every training here, unless its recipe says otherwise: a log is no place for bars, and curves
#: lie in metrics.jsonl.
PLAIN = {
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "trainer.logger": False,
}
#: Several runs share a machine: each takes one device.
ALONE = {**PLAIN, "trainer.devices": 1}


def _checkpoint(folder: Path, which: str) -> Path:
    if which == "best":
        # A kill may have left an older one beside it.
        best = list((folder / CHECKPOINTS).glob("best-*.ckpt"))
        if best:
            return max(best, key=lambda path: path.stat().st_mtime_ns)
    return folder / CHECKPOINTS / "last.ckpt"


def check_split(split: SplitConfig, root: Path, needs: Sequence[str]) -> None:
    """Refuse a pretraining that may have seen what is tested.

    Args:
        split: How the tested materials were held out.
        root: The study's folder.
        needs: Names of the pretraining runs.

    Raises:
        ValueError: if one of them held out others.
    """
    for name in needs:
        other = SplitConfig(**read_yaml(root / name / CONFIG)["data"]["split"])
        if other != split:
            raise ValueError(
                f"{name}: its data.split is {other.to_dict()}, here {split.to_dict()}: it may have "
                "seen what is tested; give both the same"
            )


def training_size(data: dict[str, Any]) -> int:
    """Number of training materials under a run's `data` section, as `XRDDataModule` counts them."""
    collection, split = Collection(data["stores"]), SplitConfig(**data["split"])
    return len(split_rows(collection, split, data["fraction"], data["repeat"])["train"])


def new_systems(data: dict[str, Any]) -> list[bool]:
    """Whether the chemical system of each test material was not in training, in their order."""
    collection, split = Collection(data["stores"]), SplitConfig(**data["split"])
    rows = split_rows(collection, split, data["fraction"], data["repeat"])
    system = collection.column("system_key")
    return [bool(new) for new in ~np.isin(system[rows["test"]], system[rows["train"]])]


def absolute_errors(table: Path) -> dict[str, list[Any]]:
    """Absolute test errors of every material, NaN left out as null.

    Args:
        table: `predictions.test.csv` of a run.

    Returns:
        `formula`, and errors by `mode/target`.
    """
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0])
    columns = {
        name: np.array([float(row[name]) for row in rows]) for name in names[2:]
    }  # id and formula come first
    errors: dict[str, list[Any]] = {"formula": [row["formula"] for row in rows]}
    for target in columns:
        for mode in ("both", "composition", "xrd"):
            if f"{target}_{mode}" in columns:
                values = np.abs(columns[f"{target}_{mode}"] - columns[target])
                errors[f"{mode}/{target}"] = [
                    round(float(v), 7) if np.isfinite(v) else None for v in values
                ]
    return errors


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(content, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; None if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def fingerprint(run: Run, root: Path) -> str:
    """Hash of everything that a run depends on, the runs it needs included."""
    needed = [(read_json(root / name / STATE) or {}).get("fingerprint") for name in run.needs]
    return digest([run.identity(), needed])


def finished(run: Run, root: Path) -> dict[str, Any] | None:
    """A run's result; None if it has not finished.

    Raises:
        ValueError: if it was made with other arguments or recipes.
    """
    state = read_json(root / run.name / STATE)
    if state is None:
        return None
    if state["fingerprint"] != fingerprint(run, root):
        raise ValueError(
            f"{root / run.name}: was made with other values, recipes or initial weights than the "
            "study has now; delete that folder, or choose another with --folder"
        )
    result: dict[str, Any] | None = read_json(root / run.name / RESULT)
    return result


def describe(run: Run, root: Path, began: float) -> dict[str, Any]:
    """A finished run's JSON."""
    return {
        "name": run.name,
        "factors": run.factors,
        "needs": list(run.needs),
        "seconds": round(time.monotonic() - began, 1),
        **run.collect(root),
    }
