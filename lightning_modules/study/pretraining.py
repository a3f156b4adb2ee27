"""Pretraining runs, which all studies in one folder share."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from lightning_modules.study.recipes import Recipe
from lightning_modules.study.run import Training

SCRATCH = "scratch"


@dataclass(frozen=True)
class Pretraining:
    """Ways to pretrain.

    Attributes:
        recipes: Recipe by name.
        seeds: Seeds to pretrain with; a run of seed s starts from `seeds[s % len(seeds)]`.
    """

    recipes: dict[str, Recipe] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])

    def check(self, starts: Iterable[str]) -> None:
        """Refuse starts that nothing is known of.

        Raises:
            ValueError: naming those that there are.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"pretraining.seeds is {self.seeds}: name at least one, each once")
        for start in starts:
            if start != SCRATCH and start not in self.recipes:
                raise ValueError(
                    f"start {start!r}: there are {SCRATCH} and, in pretraining.recipes, "
                    f"{', '.join(self.recipes) or 'none'}"
                )

    def run(self, start: str, seed: int = 0) -> Training:
        """The pretraining run that a run with this seed starts from."""
        own = self.seeds[seed % len(self.seeds)]
        return Training(
            name=f"pretraining/{start}/seed={own}",
            factors={"start": start, "seed": own},
            recipe=self.recipes[start] + seeded(own),
        )

    def needed(self, start: str, seed: int) -> tuple[str, ...]:
        """Names of the runs that a run needs."""
        return () if start == SCRATCH else (self.run(start, seed).name,)

    def runs(self, starts: Iterable[str], seeds: Iterable[int]) -> list[Training]:
        """Every pretraining run that starts and seeds need, each once."""
        found = [self.run(x, s) for x in starts if x != SCRATCH for s in seeds]
        return list({run.name: run for run in found}.values())


def seeded(seed: int) -> Recipe:
    """Seeds of weights, order, masks and augmentation; the split stays."""
    return Recipe(set={"seed_everything": seed, "data.seed": seed})
