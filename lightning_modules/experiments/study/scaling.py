"""How does the error fall with the number of training materials, for either modality and both?

Subsets are nested (`data.fraction`); validation and test are the same for all. Larger subsets get
more steps; the best checkpoint by validation is tested, so that small ones may stop early.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_modules.experiments.recipes import Recipe
from lightning_modules.experiments.study.convergence import RATE
from lightning_modules.experiments.study.pretraining import Pretraining, seeded
from lightning_modules.experiments.study.run import Run, Training

KIND = "scaling"


@dataclass(frozen=True)
class Size:
    """A subset of the training split.

    Attributes:
        fraction: Share of its formulas.
        max_steps: Steps of training.
        validations: How many times to validate on the way.
    """

    fraction: float
    max_steps: int
    validations: int = 10

    def __post_init__(self) -> None:
        """Refuse shares and steps that do not exist."""
        if not 0 < self.fraction <= 1:
            raise ValueError(f"sizes: fraction is {self.fraction}: must lie in (0, 1]")
        if not 1 <= self.validations <= self.max_steps:
            raise ValueError(
                f"sizes: validations is {self.validations}, max_steps {self.max_steps}: there "
                "must be 1 validation or more, and as many steps"
            )

    def recipe(self) -> Recipe:
        """The values that set it."""
        return Recipe(
            set={
                "data.fraction": self.fraction,
                "trainer.max_steps": self.max_steps,
                "trainer.val_check_interval": max(1, self.max_steps // self.validations),
            }
        )


@dataclass(frozen=True)
class Start:
    """Where the weights come from.

    Attributes:
        learning_rate: Its learning rate.
        recipe: What else its regressions are given, such as what stays frozen.
    """

    learning_rate: float
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class Scaling:
    """A scaling study.

    Attributes:
        folder: Where all runs lie; studies with equal pretraining share one.
        pretraining: Ways to pretrain.
        regression: What every regression begins with.
        target: Label whose error is judged.
        modalities: Overlays by what the model is given: `composition`, `xrd`, `both`.
        starts: Learning rates by start: `scratch` and names of pretraining recipes.
        sizes: Subsets of the training split.
        seeds: Seeds.
        test: Which checkpoint to test.
    """

    folder: str
    pretraining: Pretraining
    regression: Recipe
    target: str
    modalities: dict[str, Recipe]
    starts: dict[str, Start]
    sizes: list[Size]
    seeds: list[int] = field(default_factory=lambda: [0])
    test: Literal["last", "best"] = "best"

    def __post_init__(self) -> None:
        """Refuse studies that show nothing."""
        self.pretraining.check(self.starts)
        if not self.starts or not self.modalities:
            raise ValueError("starts and modalities: each must name at least one")
        known = {"composition", "xrd", "both"}
        if unknown := set(self.modalities) - known:
            raise ValueError(
                f"modalities: no {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}"
            )
        if len({size.fraction for size in self.sizes}) < max(2, len(self.sizes)):
            raise ValueError("sizes: must name at least two fractions, each once")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}: name at least one, each once")

    def run(self, modality: str, start: str, size: Size, seed: int) -> Training:
        """A regression."""
        begin = self.starts[start]
        return Training(
            name=f"{KIND}/{modality}/{start}/fraction={size.fraction:g}/seed={seed}",
            factors={"modality": modality, "start": start, "fraction": size.fraction, "seed": seed},
            needs=self.pretraining.needed(start, seed),
            recipe=self.regression
            + self.modalities[modality]
            + size.recipe()
            + seeded(seed)
            + begin.recipe
            + Recipe(set={RATE: begin.learning_rate}),
            test=self.test,
        )

    def plan(self, results: dict[str, Any], failed: set[str]) -> Sequence[Run]:
        """All runs; whole seeds one after the other, so that a stopped study compares something."""
        runs: list[Run] = [*self.pretraining.runs(self.starts, self.seeds)]
        runs += [
            self.run(modality, start, size, seed)
            for seed in self.seeds
            for size in self.sizes
            for start in self.starts
            for modality in self.modalities
        ]
        return runs
