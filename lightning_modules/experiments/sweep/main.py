"""`xxact sweep`: searches for the best values of any keys."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from datamodules.io.arguments import require
from datamodules.io.files import replace_file, replace_table
from lightning_modules.experiments.arguments import parse
from lightning_modules.experiments.machine import Machine
from lightning_modules.experiments.sweep.config import Sweep
from lightning_modules.training.recipe_files import read_yaml
from lightning_modules.training.run_folder import CONFIG

BEST, TABLE = "best.yaml", "trials.csv"
#: What trials switch off: a run of its own has bars and curves in TensorBoard.
_AS_USUAL = {"logger": None, "enable_progress_bar": None, "enable_model_summary": None}


def main(args: Sequence[str]) -> int:
    """Run `xxact sweep`."""
    sweep, machine, _ = parse("xxact sweep", Sweep, args, Machine, "recipe")
    require("optuna", "sweep", "xxact sweep")
    # Optuna takes half a second: not before the command line has been accepted.
    from lightning_modules.experiments.sweep.worker import Worker, open_study, rows

    study, folder = open_study(sweep), Path(sweep.folder)
    try:
        Worker(sweep, study, machine).run()
    finally:
        if table := rows(study):
            replace_table(folder / TABLE, table)
    print(f"all trials: {folder / TABLE}")
    done = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if not done:
        raise ValueError(f"{folder}: no trial ran to its end; {folder / TABLE} has the reasons")
    best = study.best_trial
    run = folder / str(best.user_attrs["folder"])
    if not (run / CONFIG).is_file():
        print(f"best: {best.params}; its run {run} lies on another machine")
        return 0
    path = folder / BEST
    write_best(run / CONFIG, path, f"{folder}_best")
    print(f"best: {run.name}, {sweep.metric} {best.value:.6g}: {best.params}")
    print(f"again, or longer: xxact fit --config {path} [--trainer.max_steps …]")
    return 0


def write_best(config: Path, path: Path, run: str) -> None:
    """Write the best trial's configuration as a recipe with a run's folder of its own."""
    recipe = read_yaml(config)
    for key, value in _AS_USUAL.items():
        recipe["trainer"][key] = value
    text = yaml.safe_dump(recipe | {"run": run}, sort_keys=False)
    replace_file(path, text)
