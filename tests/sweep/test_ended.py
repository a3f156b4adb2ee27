"""A trial whose training was ended from outside is no finished trial, whatever it exits with."""

import json
from pathlib import Path

import pytest
import yaml

from lightning_modules.experiments.recipes import Recipe
from lightning_modules.training.run_folder import unfinished
from tests.sweep.test_sweep import fake_training, make, states, sweep

__all__ = ["fake_training"]


def test_a_trial_that_ends_at_an_early_step_does_not_count(tmp_path: Path) -> None:
    study, said = make(sweep(tmp_path, recipe=Recipe(set={"ended_at": 0.3})))
    assert states(study) == {"COMPLETE": 3, "FAIL": 1}
    assert study.best_trial.params["model.optimizer.learning_rate"] != 0.3
    assert any("the training was ended before its last step" in line for line in said)


@pytest.mark.parametrize(
    ("trainer", "step", "early"),
    [
        ({"max_steps": 300, "max_epochs": -1}, 10, True),
        ({"max_steps": 300, "max_epochs": -1}, 300, False),
        ({"max_steps": 300, "max_epochs": 2}, 10, False),
        ({"max_steps": 300, "max_time": "00:01:00:00"}, 10, False),
        ({"max_steps": 300, "callbacks": [{"class_path": "x.EarlyStopping"}]}, 10, False),
        ({"max_steps": -1, "max_epochs": -1}, 10, False),
    ],
)
def test_the_last_step_is_compared_with_the_newest_configuration(
    trainer: dict, step: int, early: bool, tmp_path: Path
) -> None:
    assert "is missing" in unfinished(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"step": step}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 5}}))
    (tmp_path / "config.2.yaml").write_text(yaml.safe_dump({"trainer": {"max_steps": 6}}))
    (tmp_path / "config.10.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    assert bool(unfinished(tmp_path)) == early
