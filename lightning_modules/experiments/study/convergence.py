"""How much sooner does a pretrained model reach what one from scratch reaches at best?

Every start gets the same data and steps, and its own learning rate: each rate of a grid is tried
with one seed, and the one with the lowest validation error is repeated with all seeds. The rate
must stay constant (`schedule: constant`), or the schedule would fix where the curves cross.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_modules.experiments.recipes import Recipe
from lightning_modules.experiments.study.pretraining import SCRATCH, Pretraining, seeded
from lightning_modules.experiments.study.run import Run, Training

KIND = "convergence"
RATE = "model.optimizer.learning_rate"


@dataclass(frozen=True)
class Convergence:
    """A convergence study.

    Attributes:
        folder: Where all runs lie; studies with equal pretraining share one.
        pretraining: Ways to pretrain.
        regression: What every regression begins with.
        metric: Validation metric of the curves; lower is better.
        starts: `scratch` and names of pretraining recipes.
        learning_rates: Grid of which each start takes the best.
        learning_rates_of: Other grids, by start.
        seeds: Seeds of the final runs; the first one tunes.
        test: Which checkpoint gives the final error.
    """

    folder: str
    pretraining: Pretraining
    regression: Recipe
    metric: str
    starts: list[str] = field(default_factory=lambda: [SCRATCH])
    learning_rates: list[float] = field(default_factory=lambda: [3e-4, 1e-3, 3e-3])
    learning_rates_of: dict[str, list[float]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    test: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        """Refuse studies that show nothing."""
        self.pretraining.check([*self.starts, *self.learning_rates_of])
        if SCRATCH not in self.starts:
            raise ValueError(f"starts is {self.starts}: must contain {SCRATCH}, the reference")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}: name at least one, each once")
        if not all(self.rates(start) for start in self.starts):
            raise ValueError("learning_rates is empty: name at least one")

    def rates(self, start: str) -> list[float]:
        """The grid of learning rates of a start."""
        return self.learning_rates_of.get(start, self.learning_rates)

    def run(self, start: str, rate: float, seed: int) -> Training:
        """A regression."""
        return Training(
            name=f"{KIND}/{start}/lr={rate:g}/seed={seed}",
            factors={"start": start, "learning_rate": rate, "seed": seed},
            needs=self.pretraining.needed(start, seed),
            recipe=self.regression + seeded(seed) + Recipe(set={RATE: rate}),
            test=self.test,
        )

    def tuned(self, start: str, results: dict[str, Any], failed: set[str]) -> float | None:
        """The best learning rate of a start; None if it is not known yet.

        By the lowest validation error of the curve, of the first seed. A rate at which the
        training failed is no candidate.
        """
        best: dict[float, float] = {}
        for rate in self.rates(start):
            name = self.run(start, rate, self.seeds[0]).name
            if name in results:
                best[rate] = lowest(results[name]["curve"], self.metric)
            elif name not in failed:
                return None
        return min(best, key=best.__getitem__, default=None)

    def plan(self, results: dict[str, Any], failed: set[str]) -> Sequence[Run]:
        """All runs that are known: pretraining, tuning, and seeds where tuning has ended."""
        runs: list[Run] = [*self.pretraining.runs(self.starts, self.seeds)]
        for start in self.starts:
            runs += [self.run(start, rate, self.seeds[0]) for rate in self.rates(start)]
        for start in self.starts:
            rate = self.tuned(start, results, failed)
            if rate is not None:
                runs += [self.run(start, rate, seed) for seed in self.seeds[1:]]
        return runs


def lowest(curve: Sequence[dict[str, Any]], metric: str) -> float:
    """The lowest value of a metric on a curve.

    Raises:
        ValueError: if the curve does not have it, naming what it has.
    """
    if not any(metric in line for line in curve):
        known = ", ".join(key for key in (curve[0] if curve else {}) if key.startswith("val/"))
        raise ValueError(f"metric {metric!r}: the runs have {known or 'no validation'}")
    values = [line[metric] for line in curve if line.get(metric) is not None]
    return min(values, default=math.inf)
